"""Cut a stream of bytes into frames, without any I/O.

A *frame* is a length of 1, 2 or 4 bytes (big-endian, ``{packet, N}`` on the Erlang side) and that many bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from typing import Final

from erlport_bridge.term import PACKET_SIZES

# The usual capacity of a pipe. A larger frame gets memory of its own.
_BUFFER_BYTES: Final = 65_536
_SIZES: Final = {1: ">B", 2: ">H", 4: ">I"}


class FrameReader:
    """The frames of one stream.

    The caller reads bytes into :meth:`room`, counts them by :meth:`received`, and gets frames from :meth:`take`. So a
    large frame is not copied between the pipe and the codec.

    Args:
        packet: Size of a frame's length prefix: 1, 2 or 4 bytes.

    Attributes:
        packet: As given.
        buffer: Holds the bytes that have come and are not taken yet, unless a large frame is coming.
        start: Where these bytes begin in the buffer.
        end: Where these bytes end; while a large frame is coming, the number of its bytes that have come.
        is_large: Whether a frame is coming that does not fit into the buffer.

    Raises:
        ValueError: ``packet`` is not 1, 2 or 4.
    """

    def __init__(self, packet: int) -> None:
        if packet not in PACKET_SIZES:
            raise ValueError(f"expected a packet size of 1, 2 or 4, got {packet!r}")
        self.packet = packet
        self._unpack_size = struct.Struct(_SIZES[packet]).unpack_from
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.start = self.end = 0
        self.is_large = False
        # The memory for a large frame.
        self._large: mmap.mmap | None = None

    def room(self) -> memoryview:
        """Return the memory to read the next bytes of the stream into: one byte at least."""
        if self._large is not None:
            return memoryview(self._large)[self.end :]
        if self.start:
            # At most the first bytes of one frame: take() has been called until it returned None.
            rest = self.buffer[self.start : self.end].tobytes()
            self.start, self.end = 0, len(rest)
            self.buffer[: self.end] = rest
        return self.buffer[self.end :]

    def received(self, size: int) -> None:
        """Count ``size`` bytes that have been read into :meth:`room`."""
        self.end += size

    def take(self) -> bytes | mmap.mmap | None:
        """Return the next frame without its length, or ``None`` if the frame is not complete yet."""
        if self._large is not None:
            if self.end < len(self._large):
                return None
            frame, self._large = self._large, None
            self.is_large = False
            self.start = self.end = 0
            return frame
        body = self.start + self.packet
        if body > self.end:
            return None
        (size,) = self._unpack_size(self.buffer, self.start)
        if body + size <= self.end:
            self.start = body + size
            return self.buffer[body : self.start].tobytes()
        if self.packet + size > _BUFFER_BYTES:
            self._large = _large_memory(size)
            self.is_large = True
            come = self.end - body
            self._large[:come] = self.buffer[body : self.end]
            self.start, self.end = 0, come
        return None

    @property
    def pending_bytes(self) -> int:
        """Return the number of bytes of an incomplete frame; more than 0 at the end of the stream means a cut frame."""
        return self.end - self.start


def _large_memory(size: int) -> mmap.mmap:
    """Return memory whose pages are mapped on the first write, so that it is not filled with zeros first."""
    # MAP_PRIVATE: the system has pages of 2 MiB for private memory only. They fill 64 MiB in 19 ms instead of 55.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
