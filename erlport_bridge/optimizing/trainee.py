"""The program in the hands of an optimizer, which calls it from threads; it runs on the event loop, as all programs do.

So an optimizer's many calls need no more than a waiting thread each, and all of them end at once when the call ends for
which the program is compiled.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import dspy
from dspy.dsp.utils.settings import thread_local_overrides

from erlport_bridge.errors import OperationError
from erlport_bridge.optimizing.program_code import Described
from erlport_bridge.programs.execution import checked
from erlport_bridge.programs.pipelines import Pipeline
from erlport_bridge.programs.tools import CallEndedError
from erlport_bridge.threads import wait_for


class Runner:
    """Runs coroutines for threads, in the context of the call that made it; made on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._has_ended = False

    def __deepcopy__(self, memo: object) -> Runner:
        """Give itself: copies of a program are run by the same."""
        return self

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Do work on the loop, and wait for it; with the settings that DSPy has in the calling thread.

        Raises:
            OperationError: Of kind ``cancelled``: the call has ended.
            BaseException: Whatever the work raises.
        """
        context = self._context.copy()
        context.run(thread_local_overrides.set, thread_local_overrides.get())
        result: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._begin, context, work, result)
        return wait_for(result)

    def end(self) -> None:
        """Cancel what runs, and begin nothing any more; on the loop."""
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
        task.add_done_callback(lambda done: _pass_on(done, result))


class Trainee(Pipeline, Described):
    """A program that threads may call; made by :func:`trainee_of`.

    Args:
        program: What it is a copy of.
        runner: Runs it.
    """

    def __init__(self, program: Pipeline, runner: Runner) -> None:
        super().__init__(program.stages, program.outputs)
        self.modules = [module.deepcopy() for module in program.modules]
        self.runner = runner

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program, and check its answer as that of a call is checked."""
        return self.runner.run(lambda: checked(self.aforward, self.stages, inputs))


def trainee_of(program: Pipeline, runner: Runner) -> Trainee:
    """Give a copy of a program for an optimizer, whose class says what it is."""
    made: type[Trainee] = type("Program", (Trainee,), {"described": program})
    return made(program, runner)


def _pass_on(done: asyncio.Future[Any], result: Future[Any]) -> None:
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
