"""The process behind one port: reads calls, runs them side by side, answers each exactly once.

A coroutine function runs on one asyncio loop. A plain function that has been quick so far runs at once in the thread
that has read its call (see ``leadership``), any other in one of a bounded number of threads. All may be answered in
any order. When the other side closes the port the process leaves at once.

Calls are read by the thread that will run them: by the loop's, once one of a coroutine function has come, until one of
a plain function comes that must not run there.
"""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial
from mmap import mmap
from typing import Any, Final, NoReturn

from erlport_bridge import request
from erlport_bridge.errors import DecodeError, OperationError, ProtocolError
from erlport_bridge.port import awake, elixir, event_loop
from erlport_bridge.port.answers import AnswerEncoder, failed_answer
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.frames import FrameReader
from erlport_bridge.port.implementation import native
from erlport_bridge.port.in_flight import InFlight, Owed
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.logs import Logs
from erlport_bridge.port.protocol import (
    HEARTBEAT_ID,
    Call,
    Cancel,
    ElixirAnswer,
    ElixirCall,
    ElixirMessage,
    Failure,
    LogEntries,
    Recycling,
    Result,
    UnreadableCall,
    parse_message,
)
from erlport_bridge.port.targets import Target, Targets
from erlport_bridge.port.writer import FrameWriter
from erlport_bridge.threads import NoThreadError, Task, Threads, Work, uninterrupted

#: Calls taken in and not answered yet; one more is answered with kind ``overloaded``. Far above what one process can
#: work on, low enough that a caller who never waits cannot fill the memory.
DEFAULT_MAX_CALLS: Final = 4_096

_PIPE_BYTES: Final = 1 << 20

_before_exit: list[Callable[[], object]] = []


def before_exit(function: Callable[[], object]) -> None:
    """Have ``function()`` called when the process leaves because the port is closed.

    It must be quick and must not raise: nobody waits, and what it does not end (a child process) stays.
    """
    _before_exit.append(function)


class Runtime:
    """Serves one port.

    Args:
        descriptors: The protocol's two ends, as :func:`~erlport_bridge.port.descriptors.take_descriptors` gives them.
        packet: Size of a frame's length: 1, 2 or 4 bytes.
        compressed: zlib's level for answers, 0 to 9.
        modules: The Python modules whose functions may be called; ``None`` allows every module, as ErlPort does.
        threads: Run the functions that are not coroutines, and what coroutines hand to threads.
        max_calls: Most calls in flight.
    """

    def __init__(
        self,
        descriptors: Descriptors,
        *,
        packet: int = 4,
        compressed: int = 0,
        modules: Collection[str] | None = None,
        threads: Threads,
        max_calls: int = DEFAULT_MAX_CALLS,
    ) -> None:
        self._descriptor = descriptors.read
        self._answers = AnswerEncoder(packet, compressed)
        self._targets = Targets(modules)
        self._in_flight = InFlight(max_calls)
        for descriptor in descriptors:
            _enlarge_pipe(descriptor)
        self._frames = FrameReader(packet)
        self._writer = FrameWriter(descriptors.write, _cannot_write)
        # A frame that the thread that led before has left to the next one.
        self._passed_on: bytes | mmap | None = None
        # Whether the loop should lead when all that has come is taken in; and while it does, whether it has something
        # to run.
        self._is_for_loop = False
        self._has_started = False
        self._leadership = Leadership(self._lead, self._is_overdue)
        self._running: list[Any] = []
        # It compresses nothing.
        self._quick_calls = None
        if native is not None and not compressed:
            self._quick_calls = native.QuickCalls(
                descriptors,
                self._frames,
                self._targets,
                self._in_flight,
                self._leadership,
                self._answers,
                self._writer,
                awake.DURATION_NS if awake.IS_WORTHWHILE else 0,
            )
        self._threads = threads
        self._loop = event_loop.start(threads)
        elixir.connect(self._send)

    def send_logs(self, logs: Logs) -> None:
        """Have the entries of ``logs`` sent to the other side, which must know such messages."""
        logs.connect(self._send, self._writer.is_busy)

    def ask_for_recycling(self) -> None:
        """Ask the other side, which must know such messages, for another process when too many threads are stuck."""
        self._threads.stuck.ask_for_recycling(lambda reason: self._send(Recycling(reason)))

    def serve(self) -> NoReturn:
        """Answer calls until the other side closes the port, then end the process."""
        self._lead()
        # Another thread reads on, and ends the process; this one stays for the signals, which Python gives to it.
        while True:
            time.sleep(3_600)

    def _lead(self) -> None:
        """Read and begin calls until another thread leads, or the port is closed."""
        try:
            while self._receive_all(waits=True):
                self.wait_awake()
                self._read()
        except BaseException:  # noqa: BLE001 - nobody reads any more: a process that stays would answer nothing, for ever
            _report(traceback.format_exc())
            leave(1)

    # What the loop calls while its thread leads -----------------------------------------------------------------------

    def wait_awake(self) -> None:
        """Wait a moment for a call without sleeping, if nothing here wants a core and the next one may be coming."""
        # The rest of a large one takes long.
        if not self._in_flight.count and not self._frames.pending_bytes:
            awake.wait(self._descriptor)

    def receive(self) -> bool:
        """Take in what has come; ``False`` if another thread reads on."""
        try:
            self._read()
            if not self._receive_all(waits=False):
                return False
            if self._frames.is_large:
                # Reading it takes the loop's time, and so does decoding it.
                self._leadership.pass_on()
                return False
        except BaseException:  # noqa: BLE001 - as above
            _report(traceback.format_exc())
            leave(1)
        return True

    def is_busy(self) -> bool:
        """Tell whether the loop has got something to run since this was last asked."""
        has_started, self._has_started = self._has_started, False
        return has_started

    def begin(self) -> None:
        """Note that the loop runs something; if that takes long another thread reads on."""
        self._running = self._leadership.begin(None)

    def end(self) -> bool:
        """Note that the loop has run it; ``False`` if another thread leads now."""
        return self._leadership.end(self._running)

    # Reading ----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        size = os.readv(self._descriptor, [self._frames.room()])
        if not size:
            if self._frames.pending_bytes:
                come = self._frames.pending_bytes
                _report(f"the port was closed inside a frame, {come} bytes of it had come")
            leave(0)
        self._frames.received(size)

    def _receive_all(self, *, waits: bool) -> bool:
        """Begin all calls that have come, and may wait for others; ``False`` if another thread leads now."""
        frame, self._passed_on = self._passed_on, None
        if frame is not None and not self._receive(frame):
            return False
        while True:
            if self._quick_calls and not self._quick_calls.answer(waits and not self._is_for_loop):
                return False
            frame = self._frames.take()
            if frame is None:
                break
            is_read_here = self._receive(frame)
            # It may be large, and is not to be kept while the next one is waited for.
            del frame
            if not is_read_here:
                return False
        self._flush()
        if self._is_for_loop and not self._frames.is_large:
            self._is_for_loop = False
            # From now on, for what the loop runs before may take long.
            self.begin()
            self._loop.call_soon_threadsafe(self._loop.waiting.lead, self._descriptor, self)
            return False
        return True

    def _flush(self) -> None:
        """Write the answers that are held."""
        if self._quick_calls:
            self._quick_calls.flush()
        else:
            self._writer.flush()

    def _receive(self, frame: bytes | mmap) -> bool:
        try:
            event = parse_message(frame)
        except (DecodeError, ProtocolError) as error:
            # It names no call, so nobody can be answered.
            _report(f"dropped a frame of {len(frame)} bytes: {error}")
            return True
        if type(event) is Call:
            if event.id == HEARTBEAT_ID:
                # Answered by the thread that reads, so that the answer says that calls are read.
                self._writer.send(self._answers.framed(Result(HEARTBEAT_ID, True)))
                return True
            target = self._targets.known(event.module, event.function)
            if target is not None and target.is_quick() and self._in_flight.has_room():
                if target.is_harmless:
                    return self._run_harmless(event, target)
                if not self._is_on_loop():
                    return self._run_here(event, target)
                self._flush()
                self._passed_on = frame
                self._leadership.pass_on()
                return False
            self._accept(event, target)
        elif isinstance(event, UnreadableCall):
            self._accept(event)
        elif isinstance(event, ElixirAnswer):
            elixir.answered(event)
            # From Python 3.14 on, a task of the loop that waits for it is made ready without waking the loop.
            self._has_started = True
        elif isinstance(event, Cancel):
            self._cancel(event.id)
        # Any other message is a stray one of the process that owns the port under ErlPort; there is no handler for it.
        return True

    def _accept(self, event: Call | UnreadableCall, target: Target | None = None) -> None:
        owed = Owed(event)
        if not self._in_flight.add(owed):
            self._refuse(owed)
            return
        if target is not None or self._targets.is_imported(event.module):
            if target is not None and target.is_coroutine and self._loop.waiting.is_waiting:
                self._is_for_loop = True
            self._begin(owed, target)
        else:
            # An import may take seconds, and reading never waits.
            self._submit(owed, self._begin, owed)

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
            if self._is_on_loop():
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

    def _run_here(self, event: Call, target: Target) -> bool:
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

    def _run_harmless(self, event: Call, target: Target) -> bool:
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

    def _is_overdue(self, what: tuple[Owed, Target] | None) -> None:
        """Take note of what takes too long, ``None`` if it cannot be cancelled; nobody leads at this moment."""
        if what is not None:
            owed, target = what
            target.quick_calls = 0
            self._in_flight.add_overdue(owed)
        self._flush()

    def _is_on_loop(self) -> bool:
        return threading.get_ident() == self._loop.thread_id

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

    def _cancel(self, call_id: int) -> None:
        """End what nobody waits for any more."""
        owed = self._in_flight.get(call_id)
        if owed is None:
            return
        if owed.future is not None or owed.work is not None:
            self._cancel_function(owed)
        else:
            self._loop.call_soon_threadsafe(self._cancel_task, owed)

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

    def _send(self, message: ElixirCall | ElixirMessage | LogEntries | Recycling) -> None:
        # From threads that run calls too: one that is interrupted must not leave half a frame.
        with uninterrupted():
            self._writer.send(self._answers.framed(message))


def _enlarge_pipe(descriptor: int) -> None:
    """Have the pipe hold as much as the system allows anybody: with its usual 64 KiB large terms take twice as long."""
    set_size = getattr(fcntl, "F_SETPIPE_SZ", None)  # Linux, from Python 3.10 on
    if set_size is not None:
        with contextlib.suppress(OSError):  # no pipe, or the user's share of memory for pipes is used up
            fcntl.fcntl(descriptor, set_size, _PIPE_BYTES)


def _cannot_write(error: OSError) -> None:
    # No answer can go out any more; the other side sees the end of this process.
    if not isinstance(error, BrokenPipeError):
        _report(f"cannot write to the port: {error}")
    leave(0 if isinstance(error, BrokenPipeError) else 1)


def leave(status: int) -> NoReturn:
    """End the process now.

    A normal exit would wait for threads that may sit in a language model's call for minutes, and nobody can read an
    answer any more.
    """
    try:
        for function in _before_exit:
            function()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _report(text: str) -> None:
    sys.stderr.write(f"erlport_bridge: {text}\n")
