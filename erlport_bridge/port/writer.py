"""Writes whole frames from any thread, and makes none of them wait for the other side to read."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

_WAIT_MS: Final = 1_000


class FrameWriter:
    """Sends frames in the order of the calls of :meth:`send`.

    The thread that has a frame writes it itself, which is the fastest way. What the pipe does not take is left to a
    thread that waits for it.

    Args:
        descriptor: The end of a pipe; it is made non-blocking.
        failed: Called once with the error if nothing can be written any more; what is sent afterwards is dropped.
    """

    def __init__(self, descriptor: int, failed: Callable[[OSError], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._failed = failed
        # Held while bytes are written, so that frames of several threads never mix; never while anybody waits.
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._has_unsent = threading.Event()
        self._is_broken = False
        threading.Thread(target=self._send_unsent, name="writer", daemon=True).start()

    def send(self, frame: bytes) -> None:
        """Write a frame, or have it written as soon as the other side reads."""
        with self._lock:
            if self._unsent:
                self._unsent.append(memoryview(frame))
                return
            rest = self._written(memoryview(frame))
            if not rest:
                return
            self._unsent.append(rest)
        self._has_unsent.set()

    def is_busy(self) -> bool:
        """Tell whether the other side has not read all that was sent: what can be left out should not be sent now."""
        return bool(self._unsent)

    def _send_unsent(self) -> None:
        writable = select.poll()
        writable.register(self._descriptor, select.POLLOUT)
        while self._has_unsent.wait():
            writable.poll(_WAIT_MS)
            with self._lock:
                while self._unsent:
                    rest = self._written(self._unsent[0])
                    if rest:
                        self._unsent[0] = rest
                        break
                    self._unsent.popleft()
                else:
                    self._has_unsent.clear()

    def _written(self, data: memoryview) -> memoryview:
        """Write as much as the pipe takes, and give the rest."""
        try:
            while data and not self._is_broken:
                data = data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            self._is_broken = True
            self._failed(error)
        return memoryview(b"")
