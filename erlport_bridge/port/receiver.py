"""Read the calls of one port, in whichever thread leads, and hand each message to where it belongs.

Calls are read by the thread that will run them: by the loop's thread, once a call of a coroutine function has come,
until a call of a plain function comes that must not run there.
"""

from __future__ import annotations

import os
import traceback
from mmap import mmap
from typing import Any

from erlport_bridge.errors import DecodeError, ProtocolError
from erlport_bridge.port import awake, elixir
from erlport_bridge.port.answers import AnswerEncoder
from erlport_bridge.port.dispatcher import Dispatcher
from erlport_bridge.port.event_loop import Loop
from erlport_bridge.port.frames import FrameReader
from erlport_bridge.port.in_flight import InFlight
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.leaving import leave, report
from erlport_bridge.port.protocol import HEARTBEAT_ID, Call, Cancel, ElixirAnswer, Result, UnreadableCall, parse_message
from erlport_bridge.port.targets import Targets
from erlport_bridge.port.writer import FrameWriter


class Receiver:
    """Reads the messages of one port; a :class:`~.event_loop.PortReader` while the loop's thread leads.

    Args:
        descriptor: The end of the port that this process reads.
        frames: Cuts what has come into frames.
        targets: The functions that can be called.
        in_flight: The calls that are not answered yet.
        leadership: Which thread reads.
        dispatcher: Starts and cancels the calls.
        answers: Makes the frames of answers.
        writer: Writes them.
        loop: The event loop, whose thread may read.
        quick_calls: The compiled part of the port, which answers small calls itself; ``None``: there is none.
    """

    def __init__(
        self,
        descriptor: int,
        frames: FrameReader,
        targets: Targets,
        in_flight: InFlight,
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
        self._in_flight = in_flight
        self._leadership = leadership
        self._dispatcher = dispatcher
        self._answers = answers
        self._writer = writer
        self._loop = loop
        self._quick_calls = quick_calls
        # A frame that the thread that led before has left to the next one.
        self._passed_on: bytes | mmap | None = None
        # Whether the loop's thread should lead when all that has come is taken in.
        self._is_for_loop = False
        self._running: list[Any] = []

    def lead(self) -> None:
        """Read and begin calls until another thread leads, or the port is closed."""
        try:
            while self._receive_all(waits=True):
                self.wait_awake()
                self._read()
        except BaseException:  # noqa: BLE001 - nobody reads any more: a process that stays would answer nothing, for ever
            report(traceback.format_exc())
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
            report(traceback.format_exc())
            leave(1)
        return True

    def is_busy(self) -> bool:
        """Tell whether the loop has got something to run since this was last asked."""
        return self._dispatcher.has_started()

    def begin(self) -> None:
        """Note that the loop runs something; if that takes long another thread reads on."""
        self._running = self._leadership.begin(None)

    def end(self) -> bool:
        """Note that the loop has run it; ``False`` if another thread leads now."""
        return self._leadership.end(self._running)

    # Reading ----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the answers that are held."""
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
        self.flush()
        if self._is_for_loop and not self._frames.is_large:
            self._is_for_loop = False
            # From now on, for what the loop runs before may take long.
            self.begin()
            self._loop.call_soon_threadsafe(self._loop.waiting.lead, self._descriptor, self)
            return False
        return True

    def _receive(self, frame: bytes | mmap) -> bool:
        try:
            event = parse_message(frame)
        except (DecodeError, ProtocolError) as error:
            # It names no call, so nobody can be answered.
            report(f"dropped a frame of {len(frame)} bytes: {error}")
            return True
        if type(event) is Call:
            if event.id == HEARTBEAT_ID:
                # Answered by the thread that reads, so that the answer says that calls are read.
                self._writer.send(self._answers.framed(Result(HEARTBEAT_ID, True)))
                return True
            target = self._targets.known(event.module, event.function)
            if target is not None and target.is_quick() and self._in_flight.has_room():
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
            # From Python 3.14 on, a task of the loop that waits for it is made ready without waking the loop.
            self._dispatcher.note_started()
        elif isinstance(event, Cancel):
            self._dispatcher.cancel(event.id)
        # Any other message is a stray one of the process that owns the port under ErlPort; there is no handler for it.
        return True
