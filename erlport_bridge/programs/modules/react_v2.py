"""Run ``dspy.ReActV2``, whose model gets a sentence as the observation of a turn that cannot be read or run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import dspy
import pydantic
from dspy.adapters.types.tool import ToolCallResults
from dspy.utils.exceptions import ContextWindowExceededError

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs.models import is_unreadable, problem_of, read_outputs, would_end_alike
from erlport_bridge.programs.text import neutral
from erlport_bridge.programs.tools import ArgumentsError, ObservedTool, check_names

_SUBMIT: Final = "submit"
_SUBMIT_ONLY: Final = {
    "tool_choice": {"type": "function", "function": {"name": _SUBMIT}},
    "reasoning_effort": None,
}


class _Submitted(NamedTuple):
    """The output fields that a model has submitted."""

    fields: dict[str, Any]


class SubmitTool(ObservedTool):
    """The tool that takes the output fields; an error in them is an observation."""

    _signature: Any = pydantic.PrivateAttr()

    def __init__(self, plain: dspy.Tool, signature: Any) -> None:
        super().__init__(lambda: None, name=_SUBMIT, desc=plain.desc, args=plain.args, arg_types={})
        self._signature = signature

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        fields = self._signature.output_fields
        check_names(arguments, known=fields, required=fields)
        try:
            return read_outputs(self._signature, arguments)
        except OperationError as error:
            raise ArgumentsError(error.message) from None

    async def _run(self, values: dict[str, Any]) -> Any:
        return _Submitted(values)


class ToolAgent(dspy.ReActV2):  # type: ignore[misc]
    """The port's ``dspy.ReActV2``.

    DSPy stops at a turn that it cannot read and demands the output fields, and shows the model a traceback if they are
    wrong. Here the model is told what was wrong, within ``max_iters``.
    """

    stands_for = dspy.ReActV2

    def __init__(self, signature: Any, tools: Sequence[dspy.Tool], max_iters: int) -> None:
        super().__init__(signature, list(tools), max_iters)
        self.tools[_SUBMIT] = SubmitTool(self.tools[_SUBMIT], self.signature)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the agent until it submits the output fields, or ``max_iters`` turns; then demand them.

        Raises:
            OperationError: Of kind ``parse``: the model never gave the output fields in the requested form.
        """
        max_iters = inputs.pop("max_iters", self.max_iters)
        history = inputs.pop("history", None)
        if not isinstance(history, dspy.History):
            history = dspy.History.model_validate({"messages": []} if history is None else history)
        pending = {name: inputs[name] for name in self.signature.input_fields if name in inputs}
        reason, problem, was_ended = "max_iters", None, False
        for turn in range(max_iters):
            try:
                prediction, calls = await self._asked(history, pending, turn, problem)
            except ContextWindowExceededError:
                reason = "context_window_exceeded"
                break
            except Exception as error:
                if not is_unreadable(error):
                    raise
                problem = " ".join(problem_of(error).split())
                if was_ended and would_end_alike(error):
                    break
                was_ended = would_end_alike(error)
                continue
            problem, was_ended = None, False
            if not calls.tool_calls:
                reason = "empty_tool_calls"
                break
            submitted, _ = await self._executed(history, pending, prediction, calls)
            if submitted is not None:
                return dspy.Prediction(**submitted, history=history, termination_reason=_SUBMIT)
            pending = {}
        return await self._demanded(history, pending, reason, max_iters)

    async def _asked(
        self,
        history: dspy.History,
        pending: Mapping[str, Any],
        turn: int,
        problem: str | None,
        config: Mapping[str, Any] | None = None,
    ) -> tuple[dspy.Prediction, dspy.ToolCalls]:
        """Ask for the next turn; the model is told what was wrong with its answer before."""
        options: dict[str, Any] = {} if config is None else {"config": dict(config)}
        if problem is not None:
            signature = self.react.signature
            note = f"Your last answer could not be used: {neutral(problem)}"
            options["signature"] = signature.with_instructions(f"{signature.instructions}\n\n{note}")
        prediction = await self.react.acall(history=history, tools=list(self.tools.values()), **pending, **options)
        try:
            given = getattr(prediction, "tool_calls", None)
            calls = dspy.ToolCalls.model_validate({"tool_calls": []} if given is None else given)
        except ValueError as error:
            raise OperationError("parse", f"the tool calls cannot be read: {message_of(error)}") from error
        named = [
            call if call.id is not None else call.model_copy(update={"id": f"call_{turn}_{index}"})
            for index, call in enumerate(calls.tool_calls)
        ]
        return prediction, dspy.ToolCalls(tool_calls=named)

    async def _executed(
        self, history: dspy.History, pending: Mapping[str, Any], prediction: dspy.Prediction, calls: dspy.ToolCalls
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """Run the calls of a turn and add it to the history; return the submitted fields, and the errors."""
        submitted: dict[str, Any] | None = None
        values: list[Any] = []
        errors: list[str] = []
        are_errors: list[bool] = []
        for call in calls.tool_calls:
            value, error = await self._called(call)
            if isinstance(value, _Submitted):
                submitted = value.fields
                value = submitted
            if error is not None:
                errors.append(error)
            values.append(value if error is None else error)
            are_errors.append(error is not None)
        event = dict(pending)
        thought = getattr(prediction, "next_thought", None)
        if thought is not None:
            event["next_thought"] = thought
        results = ToolCallResults.from_tool_calls_and_values(calls, values, are_errors)
        event["tool_calls"] = calls.model_copy(update={"tool_call_results": results})
        history.messages.append({**event, **(submitted or {})})
        return submitted, errors

    async def _called(self, call: Any) -> tuple[Any, str | None]:
        """Return the result of a call, or what was wrong with it."""
        if call.name not in self.tools:
            return None, f"Unknown tool: {call.name}"
        try:
            value = await self.tools[call.name].acall(**(call.args or {}))
        except Exception as error:  # noqa: BLE001 - the model reads every error
            return None, f"Error in {call.name}: {neutral(message_of(error))}"
        if call.name == _SUBMIT and not isinstance(value, _Submitted):
            return None, str(value)
        return value, None

    async def _demanded(
        self, history: dspy.History, pending: Mapping[str, Any], reason: str, turn: int
    ) -> dspy.Prediction:
        try:
            prediction, calls = await self._asked(history, pending, turn, None, _SUBMIT_ONLY)
        except Exception as error:
            if not is_unreadable(error):
                raise
            raise OperationError("parse", f"the model submitted no output fields: {problem_of(error)}") from error
        submits = dspy.ToolCalls(tool_calls=[call for call in calls.tool_calls if call.name == _SUBMIT])
        if not submits.tool_calls:
            raise OperationError("parse", f"the model submitted no output fields after {reason}: no submit call")
        submitted, errors = await self._executed(history, pending, prediction, submits)
        if submitted is None:
            raise OperationError("parse", f"the model submitted no output fields after {reason}: {'; '.join(errors)}")
        return dspy.Prediction(**submitted, history=history, termination_reason="forced_submit")
