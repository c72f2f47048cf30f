"""Enforce output constraints, and ask the model again after an answer that does not fit the signature."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError, kind_of, message_of
from erlport_bridge.programs.pipelines import Pipeline, Stage
from erlport_bridge.programs.signatures import SignatureSpec, constraints
from erlport_bridge.programs.values import problem_of

_MAX_REASON_CHARACTERS: Final = 500


async def run_with_retries(
    module: Pipeline, stages: Sequence[Stage], values: Mapping[str, Any], *, retries: int = 0
) -> dspy.Prediction:
    """Run a module; while retries are left, run it again with a description of what was wrong with its answer.

    Raises:
        OperationError: Of kind ``parse``: a constraint does not hold, or the answer cannot be read.
        Exception: Any other exception of DSPy.
    """
    if not retries:
        return await checked(module.predict, stages, values)
    with dspy.track_usage() as usage:
        prediction = await _retried(module, stages, values, retries)
    # The usage of all attempts, since all of them were paid for.
    prediction.set_lm_usage(usage.get_total_tokens())
    return prediction


async def _retried(
    module: Pipeline, stages: Sequence[Stage], values: Mapping[str, Any], retries: int
) -> dspy.Prediction:
    attempt = module
    while True:
        try:
            return await checked(attempt.predict, stages, values)
        except Exception as error:
            if not retries or not (kind_of(error) == "parse" or is_parse_error(error)):
                raise
            retries -= 1
            attempt = _with_feedback(module, error)


async def checked(
    ask: Callable[..., Awaitable[dspy.Prediction]], stages: Sequence[Stage], values: Mapping[str, Any]
) -> dspy.Prediction:
    """Call ``ask`` once and check its prediction against the constraints of the stages.

    Raises:
        OperationError: Of kind ``parse``: a constraint does not hold.
        Exception: Any exception of DSPy.
    """
    prediction = await ask(**values)
    for stage in stages:
        check_outputs(stage.spec, prediction)
    return prediction


def _with_feedback(module: Pipeline, error: Exception) -> Pipeline:
    """Return a copy of a module whose prompts describe what was wrong with the previous answer."""
    reason = parse_error(error).message
    note = f"An answer was refused before: {reason[:_MAX_REASON_CHARACTERS]}. Answer anew, and keep to the form."
    copy: Pipeline = module.deepcopy()
    for predictor in copy.predictors():
        predictor.signature = predictor.signature.with_instructions(f"{predictor.signature.instructions}\n\n{note}")
    return copy


def check_outputs(spec: SignatureSpec, prediction: Mapping[str, Any]) -> None:
    """Check the outputs of a model against the constraints of their fields.

    Raises:
        OperationError: Of kind ``parse``, with the path ``outputs.…``: a constraint does not hold.
    """
    for field in spec.outputs:
        if field.constraints and field.name in prediction:
            value = prediction[field.name]
            constraints.check(field.annotation, field.constraints, value, f"outputs.{field.name}", "parse")


def parse_error(error: Exception) -> OperationError:
    """Return the error of an answer that cannot be read: the field, the expected type and the value in one sentence."""
    if isinstance(error, OperationError):
        return error
    if isinstance(error, dspy.AdapterParseError):
        message, path = problem_of(error)
        return OperationError("parse", message, type=dspy.AdapterParseError.__name__, path=path)
    # For example text that nests too deep: DSPy does not wrap the exceptions of its parsers.
    return OperationError("parse", f"cannot read the model's answer: {message_of(error)}")


def is_parse_error(error: BaseException) -> bool:
    """Return whether an exception, of any class, was raised while an adapter parsed the model's text."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "parse" and isinstance(frame.f_locals.get("self"), dspy.Adapter):
            return True
        traceback = traceback.tb_next
    return False
