"""Start the calls of one port where their functions belong, cancel them, and answer each exactly once.

A coroutine function runs on the event loop. A plain function that has been quick so far runs at once in the thread
that has read its call, any other in one of a bounded number of threads.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from erlport_bridge import request
from erlport_bridge.errors import OperationError
from erlport_bridge.port.answers import AnswerEncoder, failed_answer
from erlport_bridge.port.event_loop import Loop
from erlport_bridge.port.in_flight import InFlight, Owed
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.protocol import Call, Failure, Result, UnreadableCall
from erlport_bridge.port.targets import Target, Targets
from erlport_bridge.port.writer import FrameWriter
from erlport_bridge.threads import NoThreadError, Task, Threads, Work


class Dispatcher:
    """Starts, cancels and answers the calls of one port.

    Args:
        targets: The functions that can be called.
        in_flight: The calls that are not answered yet.
        leadership: Which thread reads, for functions that run in it.
        answers: Makes the frames of answers.
        writer: Writes them.
        threads: Run the functions that are not coroutines, and what coroutines hand to threads.
        loop: Runs the coroutine functions.
    """

    def __init__(
        self,
        targets: Targets,
        in_flight: InFlight,
        leadership: Leadership,
        answers: AnswerEncoder,
        writer: FrameWriter,
        threads: Threads,
        loop: Loop,
    ) -> None:
        self._targets = targets
        self._in_flight = in_flight
        self._leadership = leadership
        self._answers = answers
        self._writer = writer
        self._threads = threads
        self._loop = loop
        # Whether a coroutine function has been started since `has_started` was last called.
        self._has_started = False

    def has_started(self) -> bool:
        """Return whether a coroutine function has been started since this was last called."""
        has_started, self._has_started = self._has_started, False
        return has_started

    def note_started(self) -> None:
        """Note that the loop has something to run."""
        self._has_started = True

    def accept(self, event: Call | UnreadableCall, target: Target | None = None) -> bool:
        """Start a call, or refuse it; returns whether the loop's thread, which waits, is to run it and should read on.

        Args:
            event: The call.
            target: Its function, if it is known already.
        """
        owed = Owed(event)
        if not self._in_flight.add(owed):
            self._refuse(owed)
            return False
        if target is not None or self._targets.is_imported(event.module):
            is_for_loop = target is not None and target.is_coroutine and self._loop.waiting.is_waiting
            self._begin(owed, target)
            return is_for_loop
        # An import may take seconds, and reading never waits.
        self._submit(owed, self._begin, owed)
        return False

    def run_here(self, event: Call, target: Target) -> bool:
        """Run a function that has been quick so far; ``False`` if it was not, and another thread leads now."""
        owed = Owed(event)
        work = owed.work = Work(target.name)
        owed.function = target.function
        failed: Result | Failure | None = None
        value = None
        running = self._leadership.begin((owed, target))
        try:
            # In a context of its own: what it sets there is not for the next call of this thread.
            value = work.run(contextvars.copy_context().run, target.function, *event.arguments)
        except BaseException as error:  # noqa: BLE001 - the same place, for functions that run here
            failed = failed_answer(event.id, target.function, error)
        if not work.is_cancelled:
            target.note_duration(work.taken_s)
        if self._leadership.end(running):
            self._writer.hold(
                self._answers.encoded(failed) if failed else self._answers.result(event.id, value, target.function)
            )
            return True
        if work.is_cancelled:
            self._threads.stuck.ended(work)
        if failed:
            self._answer(owed, failed)
        else:
            self._return(owed, value)
        return False

    def run_harmless(self, event: Call, target: Target) -> bool:
        """Do the same for one that waits for nothing: nobody can cancel it, and it is not counted."""
        running = self._leadership.begin(None)
        started_at = time.perf_counter()
        try:
            value = contextvars.copy_context().run(target.function, *event.arguments)
        except BaseException as error:  # noqa: BLE001 - the same place, for these
            frame = self._answers.encoded(failed_answer(event.id, target.function, error))
        else:
            frame = self._answers.result(event.id, value, target.function)
        target.note_duration(time.perf_counter() - started_at)
        if self._leadership.end(running):
            self._writer.hold(frame)
            return True
        self._writer.send(frame)
        return False

    def cancel(self, call_id: int) -> None:
        """End what nobody waits for any more."""
        owed = self._in_flight.get(call_id)
        if owed is None:
            return
        if owed.future is not None or owed.work is not None:
            self._cancel_function(owed)
        else:
            self._loop.call_soon_threadsafe(self._cancel_task, owed)

    def note_overdue(self, what: tuple[Owed, Target] | None) -> None:
        """Take note of what takes too long, ``None`` if it cannot be cancelled; nobody leads at this moment."""
        if what is not None:
            owed, target = what
            target.quick_calls = 0
            self._in_flight.add_overdue(owed)

    def is_on_loop(self) -> bool:
        """Return whether this is the loop's thread."""
        return threading.get_ident() == self._loop.thread_id

    def _refuse(self, owed: Owed) -> None:
        event = owed.event
        # Nothing is imported only to be refused; what cannot be found is refused all the same.
        with contextlib.suppress(Exception):
            if self._targets.is_imported(event.module):
                owed.function = self._targets.find(event.module, event.function).function
        error = OperationError(
            "overloaded", f"{self._in_flight.max_calls} calls are in flight on this port already", stage="queue"
        )
        self._fail(owed, error)

    def _begin(self, owed: Owed, target: Target | None = None) -> None:
        """Start a call where its function belongs: on the loop or in a thread."""
        event = owed.event
        try:
            if target is None:
                target = self._targets.find(event.module, event.function)
            owed.function = target.function
            if isinstance(event, UnreadableCall):
                raise event.error
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            self._fail(owed, error)
            return
        if target.is_coroutine:
            if self.is_on_loop():
                self._start(owed, event, target.function)
            else:
                self._loop.call_soon_threadsafe(self._start, owed, event, target.function)
            return
        # In a context of its own: what it sets there is not for the next call of that thread.
        future = owed.future = self._submit(owed, contextvars.copy_context().run, target.function, *event.arguments)
        if future is not None:
            future.add_done_callback(partial(self._end, owed, target))
            if owed.is_cancelled:
                self._cancel_function(owed)

    def _submit(self, owed: Owed, function: Callable[..., Any], *arguments: Any) -> Task[Any] | None:
        try:
            return self._threads.submit(function, *arguments)
        except NoThreadError as error:
            self._fail(owed, error)
            return None

    def _end(self, owed: Owed, target: Target, future: Future[Any]) -> None:
        """Answer a call whose function has run in a thread of the pool."""
        # They refer to each other, and so to arguments and result, until the collector comes.
        owed.future = None
        if isinstance(future, Task) and not future.cancelled() and not future.work.is_cancelled:
            target.note_duration(future.work.taken_s)
        try:
            value = future.result()
        except BaseException as error:  # noqa: BLE001 - a call of any function becomes an answer
            self._fail(owed, error)
        else:
            self._return(owed, value)

    def _start(self, owed: Owed, event: Call, function: Callable[..., Any]) -> None:
        self._has_started = True
        owed.task = self._loop.create_task(self._await(owed, event, function))
        if owed.is_cancelled:
            self._cancel_task(owed)

    async def _await(self, owed: Owed, event: Call, function: Callable[..., Any]) -> None:
        request.received_at.set(owed.received_at)
        try:
            value = await function(*event.arguments)
        except BaseException as error:  # noqa: BLE001 - the same place, for coroutines
            self._fail(owed, error)
        else:
            self._return(owed, value)

    def _cancel_task(self, owed: Owed) -> None:
        if owed.task is not None:
            # After its first step: one that is cancelled before never gets to its answer.
            self._loop.call_soon(owed.task.cancel)
            return
        # Its module is just being imported.
        owed.is_cancelled = True
        if owed.future is not None:
            self._cancel_function(owed)

    def _cancel_function(self, owed: Owed) -> None:
        """Answer a call at once; what its function still returns, if it ends at all, is dropped."""
        self._fail(owed, OperationError("cancelled", "the call was cancelled"))
        future = owed.future
        if future is not None:
            future.cancel()
        elif owed.work is not None:
            self._threads.stuck.interrupt(owed.work)

    def _return(self, owed: Owed, value: object) -> None:
        """Answer a call, unless it has its answer already."""
        if self._in_flight.answer(owed):
            self._writer.send(self._answers.result(owed.event.id, value, owed.function))

    def _fail(self, owed: Owed, error: BaseException) -> None:
        """Do the same for a call whose function has raised."""
        self._answer(owed, failed_answer(owed.event.id, owed.function, error))

    def _answer(self, owed: Owed, answer: Result | Failure) -> None:
        if self._in_flight.answer(owed):
            self._writer.send(self._answers.encoded(answer, owed.function))
