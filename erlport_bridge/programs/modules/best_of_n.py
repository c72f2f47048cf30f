"""Run a module several times and keep the prediction with the best reward: ``dspy.BestOfN`` and ``dspy.Refine``.

The prompts are DSPy's own, but the modules are awaited, so that a call of them can be cancelled. Failures are reported:
DSPy's own modules print the errors of attempts and return ``None`` when all attempts fail, count failures for all calls
together, and take an error of the reward for an error of the attempt.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import dspy
import orjson
from dspy.predict.refine import OfferFeedback, inspect_modules, recursive_mask

from erlport_bridge.errors import kind_of
from erlport_bridge.programs.modules.rewards import Reward, rated
from erlport_bridge.programs.modules.stand_ins import plain_module
from erlport_bridge.programs.text import neutral

# The next attempt would fail with the same error.
_LASTING: Final = frozenset(
    {
        *("auth", "billing", "lm_not_configured", "unsupported_model", "context_window"),
        *("input", "signature", "missing_dependency", "cancelled", "overloaded"),
    }
)
# The value that DSPy uses: only with a temperature above 0 do attempts differ.
_TEMPERATURE: Final = 1.0


class _Attempt(NamedTuple):
    prediction: dspy.Prediction
    reward: float
    trace: list[Any]


class BestOfN(dspy.Module):  # type: ignore[misc]
    """The port's ``dspy.BestOfN``.

    Args:
        module: The module that is run.
        count: The maximum number of attempts.
        reward: The reward that rates each prediction.
        threshold: The attempts end at a prediction with at least this reward; ``None``: all attempts are made.
        fail_count: How many attempts may fail. One more failure ends the call with its error; if no attempt succeeds,
            the call ends with the last error. ``None``: every attempt may fail.
    """

    stands_for: type[dspy.Module] = dspy.BestOfN

    def __init__(
        self, module: dspy.Module, count: int, reward: Reward, threshold: float | None, fail_count: int | None
    ) -> None:
        super().__init__()
        self.module = module
        self._count = count
        self._reward = reward
        self._threshold = threshold
        self._fail_count = count if fail_count is None else fail_count

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the attempts one after the other, and return the prediction with the best reward."""
        lm = dspy.settings.lm
        first_rollout = lm.kwargs.get("rollout_id") or 0
        best: _Attempt | None = None
        last: _Attempt | None = None
        failed: list[Exception] = []
        for number in range(self._count):
            settings = {"lm": lm.copy(rollout_id=first_rollout + number, temperature=_TEMPERATURE), "trace": []}
            try:
                settings |= {} if last is None else await self._prepared(inputs, last)
                with dspy.context(**settings):
                    prediction = await self.module.acall(**inputs)
                    trace = list(dspy.settings.trace)
            except Exception as error:
                failed.append(error)
                if kind_of(error) in _LASTING or len(failed) > self._fail_count:
                    raise
                continue
            last = _Attempt(prediction, (await rated("reward", self._reward, inputs, prediction)).score, trace)
            if best is None or last.reward > best.reward:
                best = last
            if self._threshold is not None and last.reward >= self._threshold:
                break
        if best is None:
            raise failed[-1]
        dspy.settings.trace.extend(best.trace)
        return best.prediction

    async def _prepared(self, inputs: Mapping[str, Any], last: _Attempt) -> dict[str, Any]:
        """Return additional settings of DSPy for the attempt that follows ``last``."""
        return {}


class Refine(BestOfN):
    """The port's ``dspy.Refine``: after an attempt below the threshold, a model advises how the next can be better."""

    stands_for = dspy.Refine

    async def _prepared(self, inputs: Mapping[str, Any], last: _Attempt) -> dict[str, Any]:
        module = plain_module(self.module)
        names = {predictor: name for name, predictor in module.named_predictors()}
        trajectory = [
            {"module_name": names.get(predictor), "inputs": given, "outputs": dict(gave)}
            for predictor, given, gave in last.trace
        ]
        known = {
            "program_code": _source(module),
            "modules_defn": inspect_modules(module),
            "program_inputs": dict(inputs),
            "program_trajectory": trajectory,
            "program_outputs": dict(last.prediction.items()),
            "reward_code": self._reward.code,
            "target_threshold": self._threshold,
            "reward_value": last.reward,
            "module_names": list(names.values()),
        }
        texts = {name: value if isinstance(value, str) else _json(value) for name, value in known.items()}
        feedback = await dspy.Predict(OfferFeedback).acall(**{name: neutral(text) for name, text in texts.items()})
        signatures = {predictor.signature: name for name, predictor in module.named_predictors()}
        return {"adapter": _hinting(dspy.settings.adapter or dspy.ChatAdapter(), feedback.advice, signatures)}


def _hinting(adapter: dspy.Adapter, advice: Mapping[str, str], names: Mapping[Any, str]) -> dspy.Adapter:
    """Return an adapter that adds the advice for each predictor to its prompt."""

    def hinted(signature: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        field = dspy.InputField(desc="A hint to the module from an earlier run")
        hint = advice.get(names.get(signature, ""), "N/A")
        return signature.append("hint_", field), {**inputs, "hint_": neutral(hint)}

    # DSPy tests the adapter with isinstance, so the wrapper subclasses the adapter's class.
    class Hinting(type(adapter)):  # type: ignore[misc]
        def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            signature, inputs = hinted(signature, inputs)
            return adapter(lm, lm_kwargs, signature, demos, inputs)

        async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            signature, inputs = hinted(signature, inputs)
            return await adapter.acall(lm, lm_kwargs, signature, demos, inputs)

    # Whatever the adapter is built from, such as a second model.
    made = Hinting.__new__(Hinting)
    made.__dict__.update(adapter.__dict__)
    return made


def _source(module: dspy.Module) -> str:
    """Return the source of a module's class; an empty class statement if it comes from no file."""
    cls = getattr(module, "stands_for", type(module))
    try:
        return inspect.getsource(cls)
    except OSError:
        return f"class {cls.__name__}(dspy.Module): ..."


def _json(value: Any) -> str:
    return orjson.dumps(recursive_mask(value), option=orjson.OPT_INDENT_2).decode()
