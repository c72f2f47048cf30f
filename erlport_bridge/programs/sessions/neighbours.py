"""Examples of which each call of a program sees those nearest to its inputs: what ``dspy.KNNFewShot`` makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution import CallOptions
from erlport_bridge.programs.modules import Vector, Vectors, embedded_text
from erlport_bridge.programs.signatures import SignatureSpec


@dataclass(frozen=True)
class Neighbours:
    """What such a program knows.

    Attributes:
        examples: As terms, with all their fields.
        vectors: Theirs.
        options: ``k``, and how demos are made of those that are near, by name.
        metric: The name of a metric, or a check, as its caller wrote it; ``None``: each answer is a good demo.
    """

    examples: tuple[Mapping[str, Any], ...]
    vectors: tuple[Vector, ...]
    options: Mapping[str, Any]
    metric: object = None

    async def nearest(self, asked: SignatureSpec, values: Mapping[str, Any], call: CallOptions) -> list[dict[str, Any]]:
        """Give the examples that are nearest to the inputs of a call.

        Args:
            asked: The signature of the program.
            values: The inputs.
            call: Has the embedder of the inputs, or their vector.

        Raises:
            OperationError: Of kind ``input``: it has neither, or a vector of another length. Of kind ``tool``: the
                embedder failed.
        """
        if call.embedder is None and call.vector is None:
            message = "this version learns from the examples nearest to the inputs: expected opts.embedder, a function"
            message += " that gives vectors of texts, or opts.vector, that of the inputs"
            raise OperationError("input", message, path="opts.embedder")
        searched = Vectors([""] * len(self.vectors), self.vectors, call.embedder, query_path="opts.vector")
        found = await searched.nearest(text_of_inputs(asked, values), call.vector, self.options["k"])
        return [dict(self.examples[index]) for index in found]

    def describe(self) -> dict[str, Any]:
        """Give all of it as a term."""
        return {
            "examples": [dict(example) for example in self.examples],
            "vectors": [list(vector) for vector in self.vectors],
            "options": dict(self.options),
            "metric": self.metric,
        }


def text_of_inputs(asked: SignatureSpec, fields: Mapping[str, Any]) -> str:
    """Give the inputs among some fields as an embedder sees them."""
    return embedded_text({item.name: fields[item.name] for item in asked.inputs if item.name in fields})
