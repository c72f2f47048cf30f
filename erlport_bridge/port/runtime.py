"""Serve one port: read calls, run them side by side, and answer each exactly once.

The parts are :class:`~.receiver.Receiver`, which reads, :class:`~.dispatcher.Dispatcher`, which starts calls and
answers them, and :class:`~.leadership.Leadership`, which decides in which thread. Calls may be answered in any order.
The process ends at once when the BEAM closes the port.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Collection
from typing import Any, Final, NoReturn

from erlport_bridge.limits import ANSWER_BYTES, REQUEST_BYTES
from erlport_bridge.port import busy_wait, elixir, event_loop, recycling
from erlport_bridge.port.answers import AnswerEncoder
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.dispatcher import Dispatcher
from erlport_bridge.port.frames import FrameReader
from erlport_bridge.port.implementation import native
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.leaving import leave, report
from erlport_bridge.port.logs import Logs
from erlport_bridge.port.pending_calls import PendingCalls
from erlport_bridge.port.protocol import ElixirCall, ElixirMessage, LogEntries, Recycling
from erlport_bridge.port.receiver import Receiver
from erlport_bridge.port.recycling import RecyclingLimits
from erlport_bridge.port.targets import Targets
from erlport_bridge.port.writer import FrameWriter
from erlport_bridge.threads import Threads, uninterrupted

#: The most pending calls; one more is answered with kind ``overloaded``. Far above what one process can work on, and
#: low enough that a caller who never waits cannot fill the memory.
DEFAULT_MAX_CALLS: Final = 4_096

_PIPE_BYTES: Final = 1 << 20


class Runtime:
    """The process behind one port.

    Args:
        descriptors: The protocol's file descriptors, from :func:`~erlport_bridge.port.descriptors.take_descriptors`.
        packet: Size of a frame's length: 1, 2 or 4 bytes.
        compressed: The zlib level of answers, 0 to 9.
        modules: The Python modules whose functions may be called; ``None`` allows every module, as ErlPort does.
        threads: The pool that runs plain functions, and blocking work of coroutines.
        max_calls: The most pending calls.
        max_request_bytes: The largest call, and the largest answer of Elixir.
        max_answer_bytes: The largest answer to a call, and the largest call or message for Elixir.
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
        max_request_bytes: int = REQUEST_BYTES.default,
        max_answer_bytes: int = ANSWER_BYTES.default,
    ) -> None:
        for descriptor in descriptors:
            _enlarge_pipe(descriptor)
        self._answers = AnswerEncoder(packet, compressed, max_answer_bytes)
        self._writer = FrameWriter(descriptors.write, _cannot_write)
        self._threads = threads
        targets, pending_calls = Targets(modules), PendingCalls(max_calls)
        self._pending_calls = pending_calls
        frames = FrameReader(packet, max_request_bytes)
        leadership = Leadership(lambda: self._receiver.lead(), self._is_overdue)
        quick_calls = None
        # The compiled part compresses nothing.
        if native is not None and not compressed:
            quick_calls = native.QuickCalls(
                descriptors,
                frames,
                targets,
                pending_calls,
                leadership,
                self._answers,
                self._writer,
                busy_wait.DURATION_NS if busy_wait.IS_WORTHWHILE else 0,
            )
        loop = event_loop.start(threads)
        self._dispatcher = Dispatcher(targets, pending_calls, leadership, self._answers, self._writer, threads, loop)
        self._receiver = Receiver(
            descriptors.read,
            frames,
            targets,
            pending_calls,
            leadership,
            self._dispatcher,
            self._answers,
            self._writer,
            loop,
            quick_calls,
        )
        elixir.connect(self._send)

    def send_logs(self, logs: Logs) -> None:
        """Send the entries of ``logs`` to the port owner, which must know such messages."""
        logs.connect(self._send, self._writer.is_busy)

    def ask_for_recycling(self, limits: RecyclingLimits) -> None:
        """Ask the port owner for another process beyond these limits, and when too many threads are stuck.

        The port owner must know such messages.
        """
        self._threads.stuck.ask_for_recycling(lambda reason: self._send(Recycling("threads", reason)))
        recycling.watch(limits, lambda: self._pending_calls.answered, lambda *why: self._send(Recycling(*why)))

    def serve(self) -> NoReturn:
        """Answer calls until the port is closed, then end the process."""
        self._receiver.lead()
        # Another thread reads on, and ends the process. The main thread stays, because Python handles signals in it.
        while True:
            time.sleep(3_600)

    def _is_overdue(self, what: Any) -> None:
        """Note that the leader runs something for too long: a call, or ``None`` if it cannot be cancelled."""
        self._dispatcher.note_overdue(what)
        self._receiver.flush()

    def _send(self, message: ElixirCall | ElixirMessage | LogEntries | Recycling) -> None:
        # Threads that run calls send too, and an interrupted thread must not leave half a frame.
        with uninterrupted():
            self._writer.send(self._answers.framed(message))


def _enlarge_pipe(descriptor: int) -> None:
    """Enlarge a pipe to what the system allows without privileges: with 64 KiB large terms take twice as long."""
    set_size = getattr(fcntl, "F_SETPIPE_SZ", None)  # Linux, from Python 3.10 on
    if set_size is not None:
        with contextlib.suppress(OSError):  # no pipe, or the user's share of memory for pipes is used up
            fcntl.fcntl(descriptor, set_size, _PIPE_BYTES)


def _cannot_write(error: OSError) -> None:
    # No answer can go out any more; the port owner sees the end of this process.
    if not isinstance(error, BrokenPipeError):
        report(f"cannot write to the port: {error}")
    leave(0 if isinstance(error, BrokenPipeError) else 1)
