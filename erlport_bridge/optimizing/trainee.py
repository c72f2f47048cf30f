"""Run a program for an optimizer, which calls it from threads, on the event loop as every other program.

Each of an optimizer's many calls needs no more than a waiting thread. All of them are cancelled at once when the call
that compiles the program ends.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import dspy
from dspy.dsp.utils.settings import thread_local_overrides

from erlport_bridge import tracing
from erlport_bridge.errors import OperationError
from erlport_bridge.optimizing.program_code import Described
from erlport_bridge.programs.execution import checked
from erlport_bridge.programs.pipelines import Pipeline
from erlport_bridge.programs.tools import CallEndedError
from erlport_bridge.threads import wait_for


class Runner:
    """Runs coroutines on the event loop for threads, in the context of the call; to be created on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._has_ended = False

    def __deepcopy__(self, memo: object) -> Runner:
        """Return the same runner, since copies of a program share it."""
        return self

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on the event loop with DSPy's settings of the calling thread, and wait for it there.

        Raises:
            OperationError: Of kind ``cancelled``: the call has ended.
            BaseException: Any exception of the coroutine.
        """
        context = self._context.copy()
        context.run(thread_local_overrides.set, thread_local_overrides.get())
        # What the thread works on is the parent of the spans.
        context.run(tracing.enter, tracing.here())
        result: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._begin, context, work, result)
        return wait_for(result)

    def end(self) -> None:
        """Cancel the running coroutines, and begin no further ones; to be called on the event loop."""
        self._has_ended = True
        for task in self._tasks:
            task.cancel()

    def _begin(
        self, context: contextvars.Context, work: Callable[[], Coroutine[Any, Any, Any]], result: Future[Any]
    ) -> None:
        if not result.set_running_or_notify_cancel():
            return
        if self._has_ended:
            result.set_exception(_ended())
            return
        task = context.run(asyncio.ensure_future, work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: _set_outcome(done, result))


class Trainee(Pipeline, Described):
    """A program that threads may call; :func:`trainee_of` creates it.

    Args:
        program: The program that is copied.
        runner: Runs the copy.
    """

    def __init__(self, program: Pipeline, runner: Runner) -> None:
        super().__init__(program.stages, program.outputs)
        self.modules = [module.deepcopy() for module in program.modules]
        self.runner = runner
        # The predictors of a copy have other identities, and what a copy keeps of them are their attributes.
        for name, predictor in self.named_predictors():
            predictor.name_in_program = name

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program, and check its outputs as those of a call are checked."""
        return self.runner.run(lambda: checked(self.aforward, self.stages, inputs))


def name_of(predictor: Any) -> str | None:
    """Return the name of a predictor of a trainee, or of a copy of one."""
    found: str | None = getattr(predictor, "name_in_program", None)
    return found


def trainee_of(program: Pipeline, runner: Runner) -> Trainee:
    """Return a copy of a program for an optimizer, in a class of its own that describes the program."""
    made: type[Trainee] = type("Program", (Trainee,), {"described": program})
    return made(program, runner)


def _set_outcome(done: asyncio.Future[Any], result: Future[Any]) -> None:
    if done.cancelled():
        result.set_exception(_ended())
        return
    error = done.exception()
    if error is None:
        result.set_result(done.result())
    else:
        result.set_exception(error.__cause__ or error if isinstance(error, CallEndedError) else error)


def _ended() -> OperationError:
    return OperationError("cancelled", "the call has ended for which this program is compiled")
