"""Start the calls of one port, cancel them, and answer each exactly once.

A coroutine function runs on the event loop. A plain function that has been quick so far runs at once in the leader
thread, which has read its call. Any other plain function runs in the thread pool.
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
    """The dispatcher of one port, which starts, cancels and answers calls.

    Args:
        targets: The functions that can be called.
        in_flight: The pending calls.
        leadership: Decides which thread reads, and watches the functions that this thread runs.
        answers: Encodes answers as frames.
        writer: Writes frames.
        threads: The thread pool for plain functions, and for functions that coroutines hand to threads.
        loop: The event loop for coroutine functions.
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
        """Return whether a coroutine function has been started since the last call of this method."""
        has_started, self._has_started = self._has_started, False
        return has_started

    def note_started(self) -> None:
        """Record that the loop has something to run."""
        self._has_started = True

    def accept(self, event: Call | UnreadableCall, target: Target | None = None) -> bool:
        """Start a call, or refuse it.

        Args:
            event: The call.
            target: The called function, if it is known already.

        Returns:
            Whether the loop's thread should become the leader: it is waiting now, and will run this call.
        """
        owed = Owed(event)
        if not self._in_flight.add(owed):
            self._refuse(owed)
            return False
        if target is not None or self._targets.is_imported(event.module):
            is_for_loop = target is not None and target.is_coroutine and self._loop.waiting.is_waiting
            self._begin(owed, target)
            return is_for_loop
        # An import may take seconds, and must not block reading.
        self._submit(owed, self._begin, owed)
        return False

    def run_here(self, event: Call, target: Target) -> bool:
        """Run a quick function in the leader thread; return ``False`` if it took long and another thread leads now."""
        owed = Owed(event)
        work = owed.work = Work(target.name)
        owed.function = target.function
        failed: Result | Failure | None = None
        value = None
        running = self._leadership.begin((owed, target))
        try:
            # In a context of its own, so that context variables it sets do not leak into the next call of this thread.
            value = work.run(contextvars.copy_context().run, target.function, *event.arguments)
        except BaseException as error:  # noqa: BLE001 - becomes the answer
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
        """Run a non-blocking function in the leader thread, as :meth:`run_here`; it cannot be cancelled or counted."""
        running = self._leadership.begin(None)
        started_at = time.perf_counter()
        try:
            value = contextvars.copy_context().run(target.function, *event.arguments)
        except BaseException as error:  # noqa: BLE001 - becomes the answer
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
        """Cancel the pending call of this id, if there is one."""
        owed = self._in_flight.get(call_id)
        if owed is None:
            return
        if owed.future is not None or owed.work is not None:
            self._cancel_function(owed)
        else:
            self._loop.call_soon_threadsafe(self._cancel_task, owed)

    def note_overdue(self, what: tuple[Owed, Target] | None) -> None:
        """Count a function of the leader that is overdue as a pending call; no thread leads at this moment.

        Args:
            what: The call and its function; ``None`` for a function that cannot be cancelled, which is not counted.
        """
        if what is not None:
            owed, target = what
            target.quick_calls = 0
            self._in_flight.add_overdue(owed)

    def is_on_loop(self) -> bool:
        """Return whether this is the loop's thread."""
        return threading.get_ident() == self._loop.thread_id

    def _refuse(self, owed: Owed) -> None:
        event = owed.event
        # Find the function for its `failure_term`, but import no module only to refuse a call.
        with contextlib.suppress(Exception):
            if self._targets.is_imported(event.module):
                owed.function = self._targets.find(event.module, event.function).function
        error = OperationError(
            "overloaded", f"{self._in_flight.max_calls} calls are in flight on this port already", stage="queue"
        )
        self._fail(owed, error)

    def _begin(self, owed: Owed, target: Target | None = None) -> None:
        """Start a call: on the event loop if its function is a coroutine function, else in the thread pool."""
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
        # In a context of its own, so that context variables it sets do not leak into the next call of that thread.
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
        """Answer a call whose function has run in the thread pool."""
        # Break the reference cycle: it would keep arguments and result alive until the next garbage collection.
        owed.future = None
        if isinstance(future, Task) and not future.cancelled() and not future.work.is_cancelled:
            target.note_duration(future.work.taken_s)
        try:
            value = future.result()
        except BaseException as error:  # noqa: BLE001 - becomes the answer
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
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            self._fail(owed, error)
        else:
            self._return(owed, value)

    def _cancel_task(self, owed: Owed) -> None:
        if owed.task is not None:
            # Cancel the task after its first step: a task that is cancelled before never runs, and would not answer.
            self._loop.call_soon(owed.task.cancel)
            return
        # The call's module is being imported now.
        owed.is_cancelled = True
        if owed.future is not None:
            self._cancel_function(owed)

    def _cancel_function(self, owed: Owed) -> None:
        """Answer a call at once as cancelled, and interrupt its function; a later result is dropped."""
        self._fail(owed, OperationError("cancelled", "the call was cancelled"))
        future = owed.future
        if future is not None:
            future.cancel()
        elif owed.work is not None:
            self._threads.stuck.interrupt(owed.work)

    def _return(self, owed: Owed, value: object) -> None:
        """Answer a call with the result of its function, unless it has its answer already."""
        if self._in_flight.answer(owed):
            self._writer.send(self._answers.result(owed.event.id, value, owed.function))

    def _fail(self, owed: Owed, error: BaseException) -> None:
        """Answer a call with the exception of its function, unless it has its answer already."""
        self._answer(owed, failed_answer(owed.event.id, owed.function, error))

    def _answer(self, owed: Owed, answer: Result | Failure) -> None:
        if self._in_flight.answer(owed):
            self._writer.send(self._answers.encoded(answer, owed.function))
