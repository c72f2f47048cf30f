"""Enforce output constraints, also of outputs that no adapter has read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import dspy

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs.pipelines import Stage
from erlport_bridge.programs.signatures import SignatureSpec, constraints
from erlport_bridge.programs.values import problem_of


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
