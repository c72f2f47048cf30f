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

    Raises:
        ValueError: There is no such size.
    """

    def __init__(self, packet: int) -> None:
        if packet not in PACKET_SIZES:
            raise ValueError(f"expected a packet size of 1, 2 or 4, got {packet!r}")
        self._packet = packet
        self._unpack_size = struct.Struct(_SIZES[packet]).unpack_from
        # What has come and is not taken yet stands in the buffer from start to end; or else one frame is larger than
        # the buffer, and the memory for it filled up to end.
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._large: mmap.mmap | None = None
        self._start = self._end = 0

    def room(self) -> memoryview:
        """Give the memory that the next bytes of the stream belong into; there is room for one at least."""
        if self._large is not None:
            return memoryview(self._large)[self._end :]
        if self._start:
            # The first bytes of one frame at most: take() has been called until it gave None.
            rest = self._buffer[self._start : self._end].tobytes()
            self._start, self._end = 0, len(rest)
            self._buffer[: self._end] = rest
        return self._buffer[self._end :]

    def received(self, size: int) -> None:
        """Say that so many bytes have been read into :meth:`room`."""
        self._end += size

    def take(self) -> bytes | mmap.mmap | None:
        """Give the next frame without its length, or ``None`` if it has not come completely."""
        if self._large is not None:
            if self._end < len(self._large):
                return None
            frame, self._large = self._large, None
            self._start = self._end = 0
            return frame
        body = self._start + self._packet
        if body > self._end:
            return None
        (size,) = self._unpack_size(self._buffer, self._start)
        if body + size <= self._end:
            self._start = body + size
            return self._buffer[body : self._start].tobytes()
        if self._packet + size > _BUFFER_BYTES:
            self._large = _large_memory(size)
            come = self._end - body
            self._large[:come] = self._buffer[body : self._end]
            self._start, self._end = 0, come
        return None

    @property
    def is_large(self) -> bool:
        """Whether a frame is coming that does not fit into the buffer."""
        return self._large is not None

    @property
    def pending_bytes(self) -> int:
        """How many bytes of an incomplete frame have come: more than 0 at the end of the stream means it was cut."""
        return self._end - self._start


def _large_memory(size: int) -> mmap.mmap:
    """Give memory whose pages come when they are written to, and not as zeros that are written first."""
    # Not shared, as is the default: the system gives pages of 2 MiB only to memory of one process. 64 MiB are filled in
    # 19 ms then instead of 55.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        with contextlib.suppress(OSError):  # built without such pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
