"""Start the calls of one port, cancel them, and answer each exactly once.

A coroutine function runs on the event loop. A plain function that has been quick so far runs at once in the leader
thread, which has read its call. Any other plain function runs in the thread pool.
"""

from __future__ import annotations

import asyncio
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
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.pending_calls import PendingCall, PendingCalls
from erlport_bridge.port.protocol import Call, Failure, Result, UnreadableCall
from erlport_bridge.port.targets import Target, Targets
from erlport_bridge.port.writer import FrameWriter
from erlport_bridge.threads import NoThreadError, Task, Threads, Work


class Dispatcher:
    """The dispatcher of one port, which starts, cancels and answers calls.

    Args:
        targets: The functions that can be called.
        pending_calls: The pending calls.
        leadership: Decides which thread reads, and watches the functions that this thread runs.
        answers: Encodes answers as frames.
        writer: Writes frames.
        threads: The thread pool for plain functions, and for functions that coroutines hand to threads.
        loop: The event loop for coroutine functions.
    """

    def __init__(
        self,
        targets: Targets,
        pending_calls: PendingCalls,
        leadership: Leadership,
        answers: AnswerEncoder,
        writer: FrameWriter,
        threads: Threads,
        loop: Loop,
    ) -> None:
        self._targets = targets
        self._pending_calls = pending_calls
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
        pending = PendingCall(event)
        if not self._pending_calls.add(pending):
            self._refuse(pending)
            return False
        if target is not None or self._targets.is_imported(event.module):
            is_for_loop = target is not None and target.is_coroutine and self._loop.waiting.is_waiting
            self._begin(pending, target)
            return is_for_loop
        # An import may take seconds, and must not block reading.
        self._submit(pending, self._begin, pending)
        return False

    def run_here(self, event: Call, target: Target) -> bool:
        """Run a quick function in the leader thread; return ``False`` if it took long and another thread leads now."""
        pending = PendingCall(event)
        work = pending.work = Work(target.name)
        pending.function = target.function
        failed: Result | Failure | None = None
        value = None
        running = self._leadership.begin((pending, target))
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
            self._answer(pending, failed)
        else:
            self._return(pending, value)
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
        pending = self._pending_calls.get(call_id)
        if pending is None:
            return
        if pending.future is not None or pending.work is not None:
            self._cancel_function(pending)
        else:
            self._loop.call_soon_threadsafe(self._cancel_task, pending)

    def note_overdue(self, what: tuple[PendingCall, Target] | None) -> None:
        """Count a function of the leader that is overdue as a pending call; no thread leads at this moment.

        Args:
            what: The call and its function; ``None`` for a function that cannot be cancelled, which is not counted.
        """
        if what is not None:
            pending, target = what
            target.quick_calls = 0
            self._pending_calls.add_overdue(pending)

    def is_on_loop(self) -> bool:
        """Return whether this is the loop's thread."""
        return threading.get_ident() == self._loop.thread_id

    def _refuse(self, pending: PendingCall) -> None:
        event = pending.event
        # Find the function for its `failure_term`, but import no module only to refuse a call.
        with contextlib.suppress(Exception):
            if self._targets.is_imported(event.module):
                pending.function = self._targets.find(event.module, event.function).function
        error = OperationError(
            "overloaded", f"{self._pending_calls.max_calls} calls are in flight on this port already", stage="queue"
        )
        self._fail(pending, error)

    def _begin(self, pending: PendingCall, target: Target | None = None) -> None:
        """Start a call: on the event loop if its function is a coroutine function, else in the thread pool."""
        event = pending.event
        try:
            if isinstance(event, UnreadableCall):
                # The function says in which form its failures are answered; there may be none of this name.
                with contextlib.suppress(Exception):
                    pending.function = self._targets.find(event.module, event.function).function
                raise event.error if pending.function is None else event.error_for(pending.function)
            if target is None:
                target = self._targets.find(event.module, event.function)
            pending.function = target.function
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            self._fail(pending, error)
            return
        if target.is_coroutine:
            if self.is_on_loop():
                self._start(pending, event, target.function)
            else:
                self._loop.call_soon_threadsafe(self._start, pending, event, target.function)
            return
        # In a context of its own, so that context variables it sets do not leak into the next call of that thread.
        future = pending.future = self._submit(
            pending, contextvars.copy_context().run, target.function, *event.arguments
        )
        if future is not None:
            future.add_done_callback(partial(self._end, pending, target))
            if pending.is_cancelled:
                self._cancel_function(pending)

    def _submit(self, pending: PendingCall, function: Callable[..., Any], *arguments: Any) -> Task[Any] | None:
        try:
            return self._threads.submit(function, *arguments)
        except NoThreadError as error:
            self._fail(pending, error)
            return None

    def _end(self, pending: PendingCall, target: Target, future: Future[Any]) -> None:
        """Answer a call whose function has run in the thread pool."""
        # Break the reference cycle: it would keep arguments and result alive until the next garbage collection.
        pending.future = None
        if isinstance(future, Task) and not future.cancelled() and not future.work.is_cancelled:
            target.note_duration(future.work.taken_s)
        try:
            value = future.result()
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            self._fail(pending, error)
        else:
            self._return(pending, value)

    def _start(self, pending: PendingCall, event: Call, function: Callable[..., Any]) -> None:
        self._has_started = True
        pending.task = self._loop.create_task(self._await(pending, event, function))
        if pending.is_cancelled:
            self._cancel_task(pending)

    async def _await(self, pending: PendingCall, event: Call, function: Callable[..., Any]) -> None:
        request.received_at.set(pending.received_at)
        request.asking.call_id.set(event.id)
        try:
            value = await function(*event.arguments)
            if request.weight.is_heavy(value):
                # Shielded: a call that is cancelled while its answer is encoded gets this answer.
                request.has_result()
                await asyncio.shield(request.weight.aside(self._return, pending, value, heavy=True))
                return
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            self._fail(pending, error)
        else:
            self._return(pending, value)

    def _cancel_task(self, pending: PendingCall) -> None:
        if pending.task is not None:
            # Cancel the task after its first step: a task that is cancelled before never runs, and would not answer.
            self._loop.call_soon(pending.task.cancel)
            return
        # The call's module is being imported now.
        pending.is_cancelled = True
        if pending.future is not None:
            self._cancel_function(pending)

    def _cancel_function(self, pending: PendingCall) -> None:
        """Answer a call at once as cancelled, and interrupt its function; a later result is dropped."""
        self._fail(pending, OperationError("cancelled", "the call was cancelled"))
        future = pending.future
        if future is not None:
            future.cancel()
        elif pending.work is not None:
            self._threads.stuck.interrupt(pending.work)

    def _return(self, pending: PendingCall, value: object) -> None:
        """Answer a call with the result of its function, unless it has its answer already."""
        if self._pending_calls.answer(pending):
            self._writer.send(self._answers.result(pending.event.id, value, pending.function))

    def _fail(self, pending: PendingCall, error: BaseException) -> None:
        """Answer a call with the exception of its function, unless it has its answer already."""
        self._answer(pending, failed_answer(pending.event.id, pending.function, error))

    def _answer(self, pending: PendingCall, answer: Result | Failure) -> None:
        if self._pending_calls.answer(pending):
            self._writer.send(self._answers.encoded(answer, pending.function))
