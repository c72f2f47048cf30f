"""Run DSPy's modules that execute code written by a model: each in a thread, in the sandbox of its call.

None of these modules can be awaited directly: DSPy's own ``RLM.aforward`` would block the event loop while its code
runs, and a sandbox belongs to one thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import FormattedText


class InThread(dspy.Module):  # type: ignore[misc]
    """A module that can only block, made awaitable: it runs in a thread of the event loop's thread pool.

    Args:
        module: The module of DSPy.
        code_timeout_ms: How long each piece of code may run; ``None``: the module runs no code.
    """

    wraps = True

    def __init__(self, module: dspy.Module, code_timeout_ms: int | None = None) -> None:
        super().__init__()
        self.module = module
        self._code_timeout_ms = code_timeout_ms

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module in a thread; cancellation interrupts the thread."""
        if self._code_timeout_ms is None:
            return await asyncio.to_thread(self._run, inputs)
        factory = dspy.settings.interpreter_factory.within(self._code_timeout_ms)
        with dspy.context(interpreter_factory=factory):
            return await asyncio.to_thread(self._run, inputs)

    def _run(self, inputs: dict[str, Any]) -> dspy.Prediction:
        return self.module(**inputs)


class ProgramOfThought(InThread):
    """The port's ``dspy.ProgramOfThought``: that the model writes no working code is an error of kind ``sandbox``."""

    def _run(self, inputs: dict[str, Any]) -> dspy.Prediction:
        try:
            return super()._run(inputs)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # DSPy's errors of the sandbox itself are subclasses
                raise
            raise OperationError(
                "sandbox", f"the model wrote no code that runs, in {self.module.max_iters} attempts: {error}"
            ) from error


class _MarkedCodeAct(dspy.CodeAct):  # type: ignore[misc]
    """DSPy's ``CodeAct``; the markers in its trajectories stay markers, which they are in no other value."""

    stands_for = dspy.CodeAct

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        return FormattedText(super()._format_trajectory(trajectory))


class CodeAct(InThread):
    """The port's ``dspy.CodeAct``, whose tools stay outside the sandbox.

    DSPy copies the source of a tool into the sandbox, where its decorators, its imports and the functions it calls are
    missing; a function of Elixir has no source at all. Here the code calls tools in the way that ``dspy.RLM`` does.
    """

    def __init__(self, signature: Any, tools: Sequence[dspy.Tool], max_iters: int, code_timeout_ms: int) -> None:
        module = _MarkedCodeAct(signature, tools=list(tools), max_iters=max_iters)
        # The prompt has been built with their names; DSPy would copy the source of every tool left here.
        module.tools = {}
        super().__init__(module, code_timeout_ms)
        self._tools = {str(tool.name): _callable(tool) for tool in tools}

    def _run(self, inputs: dict[str, Any]) -> dspy.Prediction:
        interpreter = dspy.settings.interpreter_factory()
        try:
            interpreter.tools.update(self._tools)
            return self.module(interpreter, **inputs)
        finally:
            interpreter.shutdown()


def _callable(tool: dspy.Tool) -> Callable[..., Any]:
    """Return a tool in the sandbox's form: a function with the parameters of the tool's function."""

    def call(**values: Any) -> Any:
        return tool(**values)

    call.__signature__ = inspect.signature(tool.func)  # type: ignore[attr-defined]
    return call
