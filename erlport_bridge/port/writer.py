"""Write whole frames from any thread, without blocking on the other side or on other writing threads."""

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
# Largest number of held frames; with more, the first would wait too long for the last.
_MAX_HELD: Final = 16
# Largest number of parts in one write; the system's own limit is not lower.
_MAX_AT_ONCE: Final = 64
# Up to this size, a write takes less time than releasing the GIL for it and getting it back from other threads.
_SMALL_BYTES: Final = 4_096


class FrameWriter:
    """A queue of frames, written to a pipe in the order of the calls of :meth:`send` and :meth:`hold`.

    The thread that sends a frame writes it itself, which is the fastest way. While another thread writes, that thread
    writes queued frames too. If the pipe is full, a background thread waits and writes the rest: no sender blocks.

    Args:
        descriptor: The end of a pipe; it is made non-blocking.
        failed: Called once with the error if nothing can be written any more; later frames are dropped.
    """

    def __init__(self, descriptor: int, failed: Callable[[OSError], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._failed = failed
        self._unsent: deque[Frame] = deque()
        # Held by the thread that writes, so that frames of several threads never mix; and held for the background
        # thread while the pipe is full. No thread blocks on this lock.
        self._writing = threading.Lock()
        self._is_full = threading.Event()
        self._is_broken = False
        threading.Thread(target=self._send_unsent, name="writer", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Write a frame, or queue it to be written as soon as the other side reads."""
        self._unsent.append(frame)
        self.flush()

    def hold(self, frame: Frame) -> None:
        """Queue a frame to be written together with the next frames, by :meth:`flush` at the latest."""
        self._unsent.append(frame)
        if len(self._unsent) >= _MAX_HELD:
            self.flush()

    def flush(self) -> None:
        """Write the queued frames."""
        # A loop: a frame may be queued between the last look at the queue and the release of the lock.
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
        """Lock out other writers until :meth:`release`; return ``False`` if queued frames must be written first."""
        return not self._unsent and self._writing.acquire(blocking=False)

    def release(self, rest: bytes) -> None:
        """Let other threads write again, after ``rest``: the bytes of a frame that the pipe has not taken."""
        if rest:
            self._unsent.appendleft([rest])
        self._writing.release()
        self.flush()

    def is_busy(self) -> bool:
        """Return whether the pipe is full (back-pressure): frames that can be left out should not be sent now."""
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
        """Write all queued frames; return ``False`` if the pipe did not take all of them."""
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
    """Write as much as the pipe takes, and return the number of bytes."""
    if native is not None and sum(map(len, parts)) <= _SMALL_BYTES:
        size = native.write_small(descriptor, b"".join(parts))
        if size:
            return size
    return os.writev(descriptor, parts)


def _unwritten(parts: Frame, size: int) -> Frame:
    """Return the parts of a frame that are left after its first ``size`` bytes."""
    for number, part in enumerate(parts):
        if size < len(part):
            return [memoryview(part)[size:], *parts[number + 1 :]]
        size -= len(part)
    return []
