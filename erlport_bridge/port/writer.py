"""Writes whole frames from any thread, and makes none of them wait, neither for the other side nor for each other."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from erlport_bridge.port.implementation import native
from erlport_bridge.port.protocol import Frame

_WAIT_MS: Final = 1_000
# So many frames are held at most, or the first would wait for the last.
_MAX_HELD: Final = 16
# So many parts of frames go out in one write at most; the system has a limit, which is not below it.
_MAX_AT_ONCE: Final = 64
# Up to this size a write takes less time than to give up Python's lock for it and get it back from others.
_SMALL_BYTES: Final = 4_096


class FrameWriter:
    """Sends frames in the order of the calls of :meth:`send` and :meth:`hold`.

    The thread that has a frame writes it itself, which is the fastest way; while another one writes, that one takes it
    along. What the pipe does not take is left to a thread that waits for it.

    Args:
        descriptor: The end of a pipe; it is made non-blocking.
        failed: Called once with the error if nothing can be written any more; what is sent afterwards is dropped.
    """

    def __init__(self, descriptor: int, failed: Callable[[OSError], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._failed = failed
        self._unsent: deque[Frame] = deque()
        # Held by whoever writes, so that frames of several threads never mix; and for the thread that waits, while
        # the pipe is full. Nobody waits for it.
        self._writing = threading.Lock()
        self._is_full = threading.Event()
        self._is_broken = False
        threading.Thread(target=self._send_unsent, name="writer", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Write a frame, or have it written as soon as the other side reads."""
        self._unsent.append(frame)
        self.flush()

    def hold(self, frame: Frame) -> None:
        """Have a frame written with the next ones, by :meth:`flush` at the latest."""
        self._unsent.append(frame)
        if len(self._unsent) >= _MAX_HELD:
            self.flush()

    def flush(self) -> None:
        """Write what was held."""
        # Once more if a frame has come between the last look at them and the end of writing.
        while self._unsent and self._writing.acquire(blocking=False):
            is_done = True
            try:
                is_done = self._has_written()
            finally:
                if is_done:
                    self._writing.release()
            if not is_done:
                self._is_full.set()
                return

    def claim(self) -> bool:
        """Have nobody else write until :meth:`release`; ``False`` if there are other frames to be written first."""
        return not self._unsent and self._writing.acquire(blocking=False)

    def release(self, rest: bytes) -> None:
        """Let others write again; ``rest`` is what the pipe has not taken of a frame, and goes first."""
        if rest:
            self._unsent.appendleft([rest])
        self._writing.release()
        self.flush()

    def is_busy(self) -> bool:
        """Tell whether the other side has not read all that was sent: what can be left out should not be sent now."""
        return self._is_full.is_set()

    def _send_unsent(self) -> None:
        writable = select.poll()
        writable.register(self._descriptor, select.POLLOUT)
        while self._is_full.wait():
            writable.poll(_WAIT_MS)
            if self._has_written():
                self._is_full.clear()
                self._writing.release()
                self.flush()

    def _has_written(self) -> bool:
        """Write what there is; ``False`` if the pipe did not take all of it."""
        unsent = self._unsent
        while unsent:
            if self._is_broken:
                unsent.clear()
                break
            parts = unsent.popleft()
            while unsent and len(parts) < _MAX_AT_ONCE:
                parts += unsent.popleft()
            try:
                size = _written(self._descriptor, parts[:_MAX_AT_ONCE])
            except BlockingIOError:
                unsent.appendleft(parts)
                return False
            except OSError as error:
                self._is_broken = True
                self._failed(error)
                continue
            if rest := _unwritten(parts, size):
                unsent.appendleft(rest)
        return True


def _written(descriptor: int, parts: Frame) -> int:
    """Write what the pipe takes, and give how much that is."""
    if native is not None and sum(map(len, parts)) <= _SMALL_BYTES:
        size = native.write_small(descriptor, b"".join(parts))
        if size:
            return size
    return os.writev(descriptor, parts)


def _unwritten(parts: Frame, size: int) -> Frame:
    """Give what is left after so many bytes."""
    for number, part in enumerate(parts):
        if size < len(part):
            return [memoryview(part)[size:], *parts[number + 1 :]]
        size -= len(part)
    return []
