"""Cuts a stream of bytes into frames, without any input or output.

A *frame* is a length of 1, 2 or 4 bytes (big-endian, ``{packet, N}`` on the Erlang side) and that many bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from typing import Final

from erlport_bridge.term import PACKET_SIZES

# A pipe holds as much unless it is enlarged. A larger frame gets memory of its own.
_BUFFER_BYTES: Final = 65_536
_SIZES: Final = {1: ">B", 2: ">H", 4: ">I"}


class FrameReader:
    """The frames of one stream: bytes are read into :meth:`room`, counted by :meth:`received`, taken by :meth:`take`.

    So that a large frame is copied by nobody between the pipe and the codec.

    Args:
        packet: Size of a frame's length: 1, 2 or 4 bytes.

    Attributes:
        packet: As given.
        buffer: What has come and is not taken yet stands here, unless a large frame is coming.
        start: Where it begins.
        end: Where it ends. Of a large frame: how much of it has come.
        is_large: Whether a frame is coming that does not fit into the buffer.

    Raises:
        ValueError: There is no such size.
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
        """Give the memory that the next bytes of the stream belong into; there is room for one at least."""
        if self._large is not None:
            return memoryview(self._large)[self.end :]
        if self.start:
            # The first bytes of one frame at most: take() has been called until it gave None.
            rest = self.buffer[self.start : self.end].tobytes()
            self.start, self.end = 0, len(rest)
            self.buffer[: self.end] = rest
        return self.buffer[self.end :]

    def received(self, size: int) -> None:
        """Say that so many bytes have been read into :meth:`room`."""
        self.end += size

    def take(self) -> bytes | mmap.mmap | None:
        """Give the next frame without its length, or ``None`` if it has not come completely."""
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
        """How many bytes of an incomplete frame have come: more than 0 at the end of the stream means it was cut."""
        return self.end - self.start


def _large_memory(size: int) -> mmap.mmap:
    """Give memory whose pages come when they are written to, and not as zeros that are written first."""
    # Not shared, as is the default: the system gives pages of 2 MiB only to memory of one process. 64 MiB are filled in
    # 19 ms then instead of 55.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        with contextlib.suppress(OSError):  # built without such pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
