"""The process behind one port: reads calls, runs them side by side, answers each exactly once.

The parts are :class:`~.receiver.Receiver`, which reads, :class:`~.dispatcher.Dispatcher`, which starts calls and
answers them, and :class:`~.leadership.Leadership`, which decides in which thread. Calls may be answered in any order.
When the other side closes the port the process leaves at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Collection
from typing import Any, Final, NoReturn

from erlport_bridge.port import awake, elixir, event_loop
from erlport_bridge.port.answers import AnswerEncoder
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.dispatcher import Dispatcher
from erlport_bridge.port.frames import FrameReader
from erlport_bridge.port.implementation import native
from erlport_bridge.port.in_flight import InFlight
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.leaving import leave, report
from erlport_bridge.port.logs import Logs
from erlport_bridge.port.protocol import ElixirCall, ElixirMessage, LogEntries, Recycling
from erlport_bridge.port.receiver import Receiver
from erlport_bridge.port.targets import Targets
from erlport_bridge.port.writer import FrameWriter
from erlport_bridge.threads import Threads, uninterrupted

#: Calls taken in and not answered yet; one more is answered with kind ``overloaded``. Far above what one process can
#: work on, low enough that a caller who never waits cannot fill the memory.
DEFAULT_MAX_CALLS: Final = 4_096

_PIPE_BYTES: Final = 1 << 20


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
        for descriptor in descriptors:
            _enlarge_pipe(descriptor)
        self._answers = AnswerEncoder(packet, compressed)
        self._writer = FrameWriter(descriptors.write, _cannot_write)
        self._threads = threads
        targets, in_flight, frames = Targets(modules), InFlight(max_calls), FrameReader(packet)
        leadership = Leadership(lambda: self._receiver.lead(), self._is_overdue)
        quick_calls = None
        # The compiled part compresses nothing.
        if native is not None and not compressed:
            quick_calls = native.QuickCalls(
                descriptors,
                frames,
                targets,
                in_flight,
                leadership,
                self._answers,
                self._writer,
                awake.DURATION_NS if awake.IS_WORTHWHILE else 0,
            )
        loop = event_loop.start(threads)
        self._dispatcher = Dispatcher(targets, in_flight, leadership, self._answers, self._writer, threads, loop)
        self._receiver = Receiver(
            descriptors.read,
            frames,
            targets,
            in_flight,
            leadership,
            self._dispatcher,
            self._answers,
            self._writer,
            loop,
            quick_calls,
        )
        elixir.connect(self._send)

    def send_logs(self, logs: Logs) -> None:
        """Have the entries of ``logs`` sent to the other side, which must know such messages."""
        logs.connect(self._send, self._writer.is_busy)

    def ask_for_recycling(self) -> None:
        """Ask the other side, which must know such messages, for another process when too many threads are stuck."""
        self._threads.stuck.ask_for_recycling(lambda reason: self._send(Recycling(reason)))

    def serve(self) -> NoReturn:
        """Answer calls until the other side closes the port, then end the process."""
        self._receiver.lead()
        # Another thread reads on, and ends the process; this one stays for the signals, which Python gives to it.
        while True:
            time.sleep(3_600)

    def _is_overdue(self, what: Any) -> None:
        """Take note of what takes too long, ``None`` if it cannot be cancelled; nobody leads at this moment."""
        self._dispatcher.note_overdue(what)
        self._receiver.flush()

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
        report(f"cannot write to the port: {error}")
    leave(0 if isinstance(error, BrokenPipeError) else 1)
