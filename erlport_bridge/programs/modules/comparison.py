"""Run ``dspy.MultiChainComparison``, and ask for the answers that it compares where the caller gives none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import own_models
from erlport_bridge.programs.text import neutral, quoted
from erlport_bridge.programs.values import convert
from erlport_bridge.term import shown

#: The maximum number of compared answers: each is one more input field of the comparing prompt.
MAX_ATTEMPTS: Final = 20

# The default of DSPy's own module; at 0 all attempts would be equal.
_TEMPERATURE: Final = 0.7


class ComparedChains(dspy.Module):  # type: ignore[misc]
    """The port's ``dspy.MultiChainComparison``: compares ``count`` answers to the same question.

    Args:
        signature: The signature of the question.
        count: How many answers are compared.
    """

    stands_for = dspy.MultiChainComparison

    def __init__(self, signature: Any, count: int) -> None:
        super().__init__()
        self.count = count
        self.attempt = dspy.ChainOfThought(signature)
        self.compare = dspy.MultiChainComparison(signature, M=count)

    async def aforward(self, completions: object = None, **inputs: Any) -> dspy.Prediction:
        """Compare ``completions``; if there are none, compare concurrent answers of ``dspy.ChainOfThought``."""
        if completions is None:
            settings = _settings_of(self.attempt.predict)
            attempts = await _all(self.attempt.acall(**inputs, config=settings) for _ in range(self.count))
        else:
            attempts = self._checked(completions)
        predict = self.compare.predict
        return await predict.acall(**self._prompt_inputs(attempts, inputs), config=_settings_of(predict))

    def _prompt_inputs(self, attempts: list[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of the comparing prompt.

        DSPy's module has no ``aforward``; its ``forward`` words the prompt and then calls ``self.predict``. Called with
        a stand-in for ``self`` whose ``predict`` returns its arguments, it words the prompt and calls no model.
        """
        stand_in = SimpleNamespace(M=self.count, last_key=self.compare.last_key, predict=dict)
        fields: dict[str, Any] = dspy.MultiChainComparison.forward(stand_in, attempts, **inputs)
        # Text that a model wrote in an attempt must stay text in this prompt.
        return {name: neutral(value) if isinstance(value, str) else value for name, value in fields.items()}

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
        answer = self.compare.last_key
        for name in ("reasoning", answer):
            if name not in attempt:
                raise OperationError("input", f"expected {quoted(name)} in the map at {path}", path=f"{path}.{name}")
        return {
            "reasoning": convert(str, attempt["reasoning"], f"{path}.reasoning"),
            answer: convert(Any, attempt[answer], f"{path}.{answer}"),
        }


def _settings_of(predictor: dspy.Predict) -> dict[str, Any]:
    return {"temperature": own_models.model_of(predictor).kwargs.get("temperature") or _TEMPERATURE}


async def _all(awaitables: Iterable[Awaitable[Any]]) -> list[Any]:
    """Await all concurrently; if one fails, cancel the others, since nobody would use the answers they pay for."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
