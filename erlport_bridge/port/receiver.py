"""Read the messages of one port in the leader thread, and hand each message to its handler.

The thread that reads a call should also run it. So the event loop's thread becomes the leader when a call of a
coroutine function comes. It stays the leader until a call of a plain function comes that must not run on the loop.
"""

from __future__ import annotations

import os
import traceback
from mmap import mmap
from typing import Any

from erlport_bridge.errors import DecodeError, OperationError, ProtocolError
from erlport_bridge.port import busy_wait, elixir
from erlport_bridge.port.answers import AnswerEncoder
from erlport_bridge.port.dispatcher import Dispatcher
from erlport_bridge.port.event_loop import Loop
from erlport_bridge.port.frames import FrameReader, SkippedFrame
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.leaving import leave, report
from erlport_bridge.port.pending_calls import PendingCalls
from erlport_bridge.port.protocol import (
    HEARTBEAT_ID,
    Call,
    Cancel,
    ElixirAnswer,
    Result,
    UnreadableCall,
    parse_message,
    skipped_message,
)
from erlport_bridge.port.targets import Targets
from erlport_bridge.port.writer import FrameWriter


class Receiver:
    """The reader of one port's messages; a :class:`~.event_loop.PortReader` while the loop's thread leads.

    Args:
        descriptor: The end of the port that this process reads.
        frames: Cuts the received bytes into frames.
        targets: The functions that can be called.
        pending_calls: The pending calls.
        leadership: Decides which thread reads.
        dispatcher: Starts and cancels the calls.
        answers: Encodes answers as frames.
        writer: Writes frames.
        loop: The event loop, whose thread may lead.
        quick_calls: The compiled fast path, which answers calls of quick functions itself; ``None`` if not available.
    """

    def __init__(
        self,
        descriptor: int,
        frames: FrameReader,
        targets: Targets,
        pending_calls: PendingCalls,
        leadership: Leadership,
        dispatcher: Dispatcher,
        answers: AnswerEncoder,
        writer: FrameWriter,
        loop: Loop,
        quick_calls: Any | None,
    ) -> None:
        self._descriptor = descriptor
        self._frames = frames
        self._targets = targets
        self._pending_calls = pending_calls
        self._leadership = leadership
        self._dispatcher = dispatcher
        self._answers = answers
        self._writer = writer
        self._loop = loop
        self._quick_calls = quick_calls
        # A frame that the former leader has left to the next leader.
        self._passed_on: bytes | mmap | SkippedFrame | None = None
        # Whether the loop's thread should lead once all received frames are handled.
        self._is_for_loop = False
        self._running: list[Any] = []

    def lead(self) -> None:
        """Read and start calls until another thread leads, or the port is closed."""
        try:
            while self._receive_all(waits=True):
                self.busy_wait()
                self._read()
        except BaseException:  # noqa: BLE001 - no thread would read any more, and the process would answer no call
            report(traceback.format_exc())
            leave(1)

    # Called by the loop while its thread leads ------------------------------------------------------------------------

    def busy_wait(self, worked_s: float = 0.0) -> None:
        """Busy-wait a moment for the next call, if no call is pending and no frame is half received.

        ``worked_s`` is how long this thread has worked since it last waited, in seconds.
        """
        # The rest of a large frame takes long.
        if not self._pending_calls.count and not self._frames.pending_bytes:
            busy_wait.wait(self._descriptor, worked_s)

    def receive(self) -> bool:
        """Receive the calls that have come; return ``False`` if another thread leads now."""
        try:
            self._read()
            if not self._receive_all(waits=False):
                return False
            if self._frames.is_large:
                # Reading and decoding a large frame would block the loop.
                self._leadership.pass_on()
                return False
        except BaseException:  # noqa: BLE001 - as above
            report(traceback.format_exc())
            leave(1)
        return True

    def is_busy(self) -> bool:
        """Return whether the loop has got something to run since the last call of this method."""
        return self._dispatcher.has_started()

    def begin(self) -> None:
        """Record that the loop runs its callbacks; if they take long, another thread becomes the leader."""
        self._running = self._leadership.begin(None)

    def end(self) -> bool:
        """Record that the loop has run its callbacks; return ``False`` if another thread leads now."""
        return self._leadership.end(self._running)

    # Reading ----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the held answers."""
        if self._quick_calls:
            self._quick_calls.flush()
        else:
            self._writer.flush()

    def _read(self) -> None:
        size = os.readv(self._descriptor, [self._frames.room()])
        if not size:
            if self._frames.pending_bytes:
                come = self._frames.pending_bytes
                report(f"the port was closed inside a frame, {come} bytes of it had come")
            leave(0)
        self._frames.received(size)

    def _receive_all(self, *, waits: bool) -> bool:
        """Start all received calls.

        Args:
            waits: Whether the fast path may wait for further calls and read them.

        Returns:
            ``False`` if another thread leads now.
        """
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
            # Free the frame, which may be large, before the wait for the next one.
            del frame
            if not is_read_here:
                return False
        self.flush()
        if self._is_for_loop and not self._frames.is_large:
            self._is_for_loop = False
            # The watch starts now: callbacks that the loop runs before `lead` may take long.
            self.begin()
            self._loop.call_soon_threadsafe(self._loop.waiting.lead, self._descriptor, self)
            return False
        return True

    def _receive(self, frame: bytes | mmap | SkippedFrame) -> bool:
        try:
            if isinstance(frame, SkippedFrame):
                event: Any = skipped_message(frame, self._frames.max_bytes)
            else:
                event = parse_message(frame)
        except (DecodeError, ProtocolError, OperationError) as error:
            # Such a frame names no call, so there is no call to answer.
            size = frame.size if isinstance(frame, SkippedFrame) else len(frame)
            report(f"dropped a frame of {size} bytes: {error}")
            return True
        if type(event) is Call:
            if event.id == HEARTBEAT_ID:
                # Answered by the leader itself, so that the answer proves that calls are read.
                self._writer.send(self._answers.framed(Result(HEARTBEAT_ID, True)))
                return True
            target = self._targets.known(event.module, event.function)
            if target is not None and target.is_quick() and self._pending_calls.has_room():
                if target.is_harmless:
                    return self._dispatcher.run_harmless(event, target)
                if not self._dispatcher.is_on_loop():
                    return self._dispatcher.run_here(event, target)
                self.flush()
                self._passed_on = frame
                self._leadership.pass_on()
                return False
            self._is_for_loop |= self._dispatcher.accept(event, target)
        elif isinstance(event, UnreadableCall):
            self._is_for_loop |= self._dispatcher.accept(event)
        elif isinstance(event, ElixirAnswer):
            elixir.answered(event)
            # From Python 3.14 on, a task that waits for the answer becomes ready without waking the loop.
            self._dispatcher.note_started()
        elif isinstance(event, Cancel):
            self._dispatcher.cancel(event.id)
        # Any other message is a stray message of the port owner under ErlPort; it has no handler.
        return True
