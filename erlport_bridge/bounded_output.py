"""Write to stdout and stderr without waiting for ever for somebody to read them.

A pipe that nobody reads (a log shipper that has stopped, a supervisor that keeps the other end and never looks) is
full after 64 KiB, and whoever logs next waits: the thread of a call, with the lock of the logging handler, or the event
loop, and with it every call of the port. What nobody reads is dropped here, and the number of its bytes is written
once there is room again.
"""

from __future__ import annotations

import io
import select
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: The longest time to wait until something is read.
PATIENCE_S: Final = 1.0
#: For this time after something was dropped, nothing is waited for: a slow reader must not hold up each line.
IMPATIENT_S: Final = 60.0

# A pipe that is ready for data takes this much without waiting.
_AT_ONCE: Final = select.PIPE_BUF


class BoundedOutput(io.FileIO):
    """A descriptor for writing, which stays open when this is closed."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._dropped = 0
        self._dropped_at = -IMPATIENT_S
        # Between the check for room and the write no other thread may take the room.
        self._turn = threading.Lock()
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def write(self, data: Buffer, /) -> int:
        """Write ``data``, or drop what is not read, and return its size.

        Raises:
            OSError: The descriptor is closed, or its reader is gone.
        """
        left = memoryview(data).cast("B")
        size = len(left)
        if self._turn.acquire(timeout=self._patience_s()):
            try:
                if self._dropped and self._has_room():
                    missing = f"[{self._dropped} bytes are missing here: nobody read this output for a while]\n"
                    if super().write(missing.encode()):
                        self._dropped = 0
                while left and self._has_room():
                    # `None` where the descriptor does not wait, and another process took the room.
                    left = left[super().write(left[:_AT_ONCE]) or 0 :]
            finally:
                self._turn.release()
        if left:
            self._dropped += len(left)
            self._dropped_at = time.monotonic()
        return size

    def _has_room(self) -> bool:
        """Wait until the descriptor takes data, but not for long."""
        return bool(self._room.poll(self._patience_s() * 1_000))

    def _patience_s(self) -> float:
        return 0 if time.monotonic() < self._dropped_at + IMPATIENT_S else PATIENCE_S
