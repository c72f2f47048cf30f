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
from erlport_bridge.programs.models import FormattedText, is_unreadable, would_end_alike
from erlport_bridge.programs.modules.unreadable_steps import answer_of, observation_of
from erlport_bridge.programs.sandbox import CodeLimits


class InThread(dspy.Module):  # type: ignore[misc]
    """A module that can only block, made awaitable: it runs in a thread of the event loop's thread pool.

    Args:
        module: The module of DSPy.
        limits: The limits of each piece of code; ``None``: the module runs no code.
    """

    wraps = True

    def __init__(self, module: dspy.Module, limits: CodeLimits | None = None) -> None:
        super().__init__()
        self.module = module
        self._limits = limits

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module in a thread; cancellation interrupts the thread."""
        if self._limits is None:
            return await asyncio.to_thread(self._run, inputs)
        factory = dspy.settings.interpreter_factory.within(self._limits)
        with dspy.context(interpreter_factory=factory):
            return await asyncio.to_thread(self._run, inputs)

    def _run(self, inputs: dict[str, Any]) -> dspy.Prediction:
        return self.module(**inputs)


class _SteppingProgramOfThought(dspy.ProgramOfThought):  # type: ignore[misc]
    """DSPy's ``ProgramOfThought``, which asks for other code where an answer cannot be read, within ``max_iters``."""

    stands_for = dspy.ProgramOfThought

    def forward(self, interpreter: Any = None, /, **inputs: Any) -> dspy.Prediction:
        """Ask for code until one runs, and then for the output fields."""
        with self._interpreter_context(interpreter) as sandbox:
            given = {name: inputs[name] for name in self.input_fields}
            code, output, problem = self._attempted(self.code_generate, given, sandbox)
            for _ in range(1, self.max_iters):
                if problem is None:
                    break
                given |= {"previous_code": code, "error": problem}
                code, output, problem = self._attempted(self.code_regenerate, given, sandbox)
            if problem is not None:
                raise RuntimeError(f"Max hops reached. Failed to run ProgramOfThought: {problem}")
            return self.generate_output(**given, final_generated_code=code, code_output=output)

    def _attempted(self, ask: dspy.Module, given: dict[str, Any], sandbox: Any) -> tuple[str, Any, str | None]:
        """Return code, what it printed, and what was wrong."""
        try:
            written = ask(**given)
        except Exception as error:
            if not is_unreadable(error):
                raise
            return answer_of(error), None, observation_of(error)
        code, problem = self._parse_code(written)
        return (code, None, problem) if problem else (code, *self._execute_code(code, sandbox))


class ProgramOfThought(InThread):
    """The port's ``dspy.ProgramOfThought``: that the model writes no working code is an error of kind ``sandbox``."""

    def __init__(self, signature: Any, max_iters: int, limits: CodeLimits) -> None:
        super().__init__(_SteppingProgramOfThought(signature, max_iters), limits)

    def _run(self, inputs: dict[str, Any]) -> dspy.Prediction:
        try:
            return super()._run(inputs)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # DSPy's errors of the sandbox itself are subclasses
                raise
            raise OperationError(
                "sandbox", f"the model wrote no code that runs, in {self.module.max_iters} attempts: {error}"
            ) from error


class _SteppingRLM(dspy.RLM):  # type: ignore[misc]
    """DSPy's ``RLM``, in which a step that cannot be read is an observation like any other, within ``max_iters``.

    DSPy ends the call there; what the code before has found out is lost.
    """

    stands_for = dspy.RLM

    def _execute_iteration(self, repl: Any, variables: Any, history: Any, *arguments: Any) -> Any:
        try:
            return super()._execute_iteration(repl, variables, history, *arguments)
        except Exception as error:
            if not is_unreadable(error):
                raise
            observation = f"[Error] {observation_of(error)}"
            # Once more, since the next prompt differs; but a limit of tokens that is too low ends every step.
            was_ended = len(history) > 0 and history.entries[-1].output == observation
            history = history.append(code=answer_of(error), output=observation)
            if was_ended and would_end_alike(error):
                return self._extract_fallback(variables, history, list(self.signature.output_fields))
            return history


class RLM(InThread):
    """The port's ``dspy.RLM``."""

    def __init__(self, signature: Any, limits: CodeLimits, **options: Any) -> None:
        super().__init__(_SteppingRLM(signature, **options), limits)


class _SteppingCodeAct(dspy.CodeAct):  # type: ignore[misc]
    """DSPy's ``CodeAct``, in which a step that cannot be read is an observation like any other, within ``max_iters``.

    DSPy ends the call there. The markers in its trajectories stay markers, which they are in no other value.
    """

    stands_for = dspy.CodeAct

    def forward(self, interpreter: Any = None, /, **inputs: Any) -> dspy.Prediction:
        """Run code until the model has finished, or ``max_iters`` steps; then ask for the output fields."""
        max_iters = inputs.pop("max_iters", self.max_iters)
        trajectory: dict[str, Any] = {}
        was_ended = False
        with self._interpreter_context(interpreter) as sandbox:
            for index in range(max_iters):
                try:
                    step = self.codeact(trajectory=trajectory, **inputs)
                except Exception as error:
                    if not is_unreadable(error):
                        raise
                    trajectory |= {
                        f"generated_code_{index}": answer_of(error),
                        f"observation_{index}": observation_of(error),
                    }
                    # Once more, since the next prompt differs; but a limit of tokens that is too low ends every step.
                    if was_ended and would_end_alike(error):
                        break
                    was_ended = would_end_alike(error)
                    continue
                was_ended = False
                is_run, entries = self._step(step, index, sandbox)
                trajectory |= entries
                if is_run and step.finished:
                    break
            fields = self._call_with_potential_trajectory_truncation(self.extractor, trajectory, **inputs)
        return dspy.Prediction(trajectory=trajectory, **fields)

    def _step(self, step: dspy.Prediction, index: int, sandbox: Any) -> tuple[bool, dict[str, Any]]:
        """Run the code of a step; return whether there was any, and the entries of the trajectory."""
        code, problem = self._parse_code(step)
        if problem:
            return False, {f"observation_{index}": f"Failed to parse the generated code: {problem}"}
        entries = {f"generated_code_{index}": code}
        output, problem = self._execute_code(code, sandbox)
        if problem:
            return True, entries | {f"observation_{index}": f"Failed to execute the generated code: {problem}"}
        return True, entries | {f"code_output_{index}": output}

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        return FormattedText(super()._format_trajectory(trajectory))


class CodeAct(InThread):
    """The port's ``dspy.CodeAct``, whose tools stay outside the sandbox.

    DSPy copies the source of a tool into the sandbox, where its decorators, its imports and the functions it calls are
    missing; a function of Elixir has no source at all. Here the code calls tools in the way that ``dspy.RLM`` does.
    """

    def __init__(self, signature: Any, tools: Sequence[dspy.Tool], max_iters: int, limits: CodeLimits) -> None:
        module = _SteppingCodeAct(signature, tools=list(tools), max_iters=max_iters)
        # The prompt has been built with their names; DSPy would copy the source of every tool left here.
        module.tools = {}
        super().__init__(module, limits)
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
