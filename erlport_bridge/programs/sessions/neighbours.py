"""Keep the examples of a program whose calls learn from the nearest of them, as ``dspy.KNNFewShot`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.execution import CallOptions
from erlport_bridge.programs.modules import Vector, Vectors, embedded_text
from erlport_bridge.programs.signatures import SignatureSpec


@dataclass(frozen=True)
class Neighbours:
    """The examples of such a program, and how demos are made from the nearest of them.

    Attributes:
        examples: The examples as terms, with all their fields.
        vectors: One embedding per example.
        options: ``k`` and the options by which demos are made from the nearest examples, by name.
        metric: The name of a metric, a check or an exported function, as the caller wrote it; ``None``: every answer is
            a good demo.
        embedder: The exported function that embeds the inputs; ``None``: each call brings one, or their embedding.
    """

    examples: tuple[Mapping[str, Any], ...]
    vectors: tuple[Vector, ...]
    options: Mapping[str, Any]
    metric: object = None
    embedder: str | None = None

    async def nearest(self, asked: SignatureSpec, values: Mapping[str, Any], call: CallOptions) -> list[dict[str, Any]]:
        """Return the examples nearest to the inputs of a call.

        Args:
            asked: The signature of the program.
            values: The inputs of the call.
            call: The options of the call, with the embedder of the inputs or their embedding.

        Raises:
            OperationError: Of kind ``input``: the call has neither, or an embedding of another length. Of kind
                ``tool``: the embedder failed.
        """
        embedder = call.embedder
        if embedder is None and self.embedder is not None:
            embedder = ElixirFunction("neighbours.embedder", f"embedder:{self.embedder}")
        if embedder is None and call.vector is None:
            message = "this version learns from the examples nearest to the inputs: expected opts.embedder, a function"
            message += " that gives vectors of texts, or opts.vector, that of the inputs"
            raise OperationError("input", message, path="opts.embedder")
        searched = Vectors([""] * len(self.vectors), self.vectors, embedder, query_path="opts.vector")
        found = await searched.nearest(text_of_inputs(asked, values), call.vector, self.options["k"])
        return [dict(self.examples[index]) for index in found]

    def describe(self) -> dict[str, Any]:
        """Return the examples, their embeddings and the options as a term."""
        return {
            "examples": [dict(example) for example in self.examples],
            "vectors": [list(vector) for vector in self.vectors],
            "options": dict(self.options),
            "metric": self.metric,
            **({"embedder": self.embedder} if self.embedder else {}),
        }


def text_of_inputs(asked: SignatureSpec, fields: Mapping[str, Any]) -> str:
    """Return those fields that are inputs of the program as the text that an embedder gets."""
    return embedded_text({item.name: fields[item.name] for item in asked.inputs if item.name in fields})
