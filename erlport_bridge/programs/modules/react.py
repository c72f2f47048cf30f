"""Run ``dspy.ReAct``, whose model gets a sentence as the observation of a step that cannot be read or run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from erlport_bridge.errors import message_of
from erlport_bridge.programs.models import FormattedText, is_unreadable, would_end_alike
from erlport_bridge.programs.modules.unreadable_steps import answer_of, observation_of
from erlport_bridge.programs.text import neutral
from erlport_bridge.programs.tools import ObservedTool, check_names

_FINISH: Final = "finish"
#: A step's entries in the trajectory, each with the number of the step behind it. DSPy drops steps by their count.
_ENTRIES: Final = ("thought", "tool_name", "tool_args", "observation")
# How often a trajectory that is too long for the model is cut before the call fails.
_MAX_CUTS: Final = 3


class FinishTool(ObservedTool):
    """The tool that ends a trajectory; an argument that a model gives it is an observation."""

    def __init__(self, plain: dspy.Tool) -> None:
        super().__init__(lambda: None, name=_FINISH, desc=plain.desc, args={}, arg_types={})

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        check_names(arguments, known=(), required=())
        return arguments

    async def _run(self, values: dict[str, Any]) -> Any:
        return "Completed."


class ReAct(dspy.ReAct):  # type: ignore[misc]
    """The port's ``dspy.ReAct``.

    DSPy ends the whole call if the model names an unknown tool or writes a step in another form: what the tools have
    done is lost. Here such a step is an observation like any other, within ``max_iters``.
    """

    stands_for = dspy.ReAct

    def __init__(self, signature: Any, tools: Sequence[dspy.Tool], max_iters: int) -> None:
        super().__init__(signature, list(tools), max_iters)
        # The prompt has been built with DSPy's own, which is described in the same words.
        self.tools[_FINISH] = FinishTool(self.tools[_FINISH])

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the agent until it finishes, or ``max_iters`` steps; then ask for the output fields."""
        max_iters = inputs.pop("max_iters", self.max_iters)
        trajectory: dict[str, Any] = {}
        was_ended = False
        for index in range(max_iters):
            try:
                step = await self._asked(self.react, trajectory, inputs)
            except ContextWindowExceededError:
                break
            except Exception as error:
                if not is_unreadable(error):
                    raise
                trajectory |= _entries(index, answer_of(error), None, {}, observation_of(error))
                # Once more, since the next prompt differs; but a limit of tokens that is too low ends every step.
                if was_ended and would_end_alike(error):
                    break
                was_ended = would_end_alike(error)
                continue
            was_ended = False
            name, values = step.next_tool_name, step.next_tool_args
            trajectory |= _entries(index, step.next_thought, name, values, await self._observation(name, values))
            if name == _FINISH:
                break
        fields = await self._asked(self.extract, trajectory, inputs)
        return dspy.Prediction(trajectory=trajectory, **fields)

    async def _observation(self, name: str, values: Mapping[str, Any]) -> Any:
        try:
            return await self.tools[name].acall(**values)
        except Exception as error:  # noqa: BLE001 - the model reads every error
            return f"Error in {name}: {neutral(message_of(error))}"

    async def _asked(self, module: dspy.Module, trajectory: dict[str, Any], inputs: Mapping[str, Any]) -> Any:
        """Ask for a step, or for the output fields; the oldest steps are left out if the prompt is too long."""
        for _ in range(_MAX_CUTS):
            try:
                return await module.acall(**inputs, trajectory=_formatted(trajectory))
            except ContextWindowExceededError:
                trajectory = self.truncate_trajectory(trajectory)
        message = f"the context window was exceeded even after {_MAX_CUTS} attempts to shorten the trajectory"
        raise ContextWindowExceededError(message=message)


def _entries(index: int, *values: Any) -> dict[str, Any]:
    return {f"{name}_{index}": value for name, value in zip(_ENTRIES, values, strict=True)}


def _formatted(trajectory: Mapping[str, Any]) -> str:
    """Return a trajectory as a part of a prompt; no value in it can pose as another entry.

    A step that could not be read called no tool, and may have no text.
    """
    unread = {
        name.rpartition("_")[2] for name, value in trajectory.items() if name.startswith("tool_name_") and not value
    }
    shown = {
        name: value
        for name, value in trajectory.items()
        if value not in (None, "") or name.rpartition("_")[2] not in unread
    }
    if not shown:
        return ""
    signature = dspy.Signature(f"{', '.join(shown)} -> x")
    return FormattedText(dspy.settings.adapter.format_user_message_content(signature, shown))
