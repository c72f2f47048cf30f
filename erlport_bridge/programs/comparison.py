"""``dspy.MultiChainComparison``, with the answers that it compares made where the caller brings none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments
from erlport_bridge.programs.text import quoted, shown

#: Most answers that are compared: each is one more input field of the comparing prompt.
MAX_ATTEMPTS: Final = 20

# What DSPy's own module takes where the caller sets none; at 0 every attempt would be the same.
_TEMPERATURE: Final = 0.7


class ComparedChains(dspy.Module):  # type: ignore[misc]
    """Compares ``count`` answers to the same question.

    Args:
        signature: The signature of the question.
        count: How many answers are compared.
    """

    def __init__(self, signature: Any, count: int) -> None:
        super().__init__()
        self.count = count
        self.attempt = dspy.ChainOfThought(signature)
        self.compare = dspy.MultiChainComparison(signature, M=count)

    async def aforward(self, completions: object = None, **inputs: Any) -> dspy.Prediction:
        """Compare ``completions``, or answers made by ``dspy.ChainOfThought`` at the same time if there are none."""
        settings = {"temperature": dspy.settings.lm.kwargs.get("temperature") or _TEMPERATURE}
        if completions is None:
            makers = (self.attempt.acall(**inputs, config=settings) for _ in range(self.count))
            attempts: list[Any] = await asyncio.gather(*makers)
        else:
            attempts = self._checked(completions)
        return await self.compare.predict.acall(**self._prompt_inputs(attempts, inputs), config=settings)

    def _prompt_inputs(self, attempts: list[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Give the inputs of the comparing prompt.

        DSPy's module has no ``aforward``; its ``forward`` words the prompt and then calls ``self.predict``. Run on a
        stand-in whose ``predict`` gives back what it gets, it words the prompt and asks no model.
        """
        stand_in = SimpleNamespace(M=self.count, last_key=self.compare.last_key, predict=dict)
        fields: dict[str, Any] = dspy.MultiChainComparison.forward(stand_in, attempts, **inputs)
        return fields

    def _checked(self, completions: object) -> list[dict[str, Any]]:
        path = "inputs.completions"
        if not isinstance(completions, list) or len(completions) != self.count:
            raise OperationError(
                "input", f"expected a list of {self.count} maps at {path}, got {shown(completions)}", path=path
            )
        return [self._checked_attempt(item, f"{path}[{index}]") for index, item in enumerate(completions)]

    def _checked_attempt(self, item: object, path: str) -> dict[str, Any]:
        if not isinstance(item, Mapping):
            raise OperationError("input", f"expected a map at {path}, got {shown(item)}", path=path)
        attempt = {str(key): value for key, value in item.items()}
        if "reasoning" not in attempt and "rationale" in attempt:
            attempt["reasoning"] = attempt["rationale"]
        for name in ("reasoning", self.compare.last_key):
            if name not in attempt:
                raise OperationError("input", f"expected {quoted(name)} in the map at {path}", path=f"{path}.{name}")
        attempt["reasoning"] = arguments.text(attempt["reasoning"], f"{path}.reasoning")
        return attempt
