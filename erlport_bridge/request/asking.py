"""Record which calls ask a model or call a function, in memory that the other side reads after this process has died.

The id of a call is written to a slot of a file in memory: its id modulo the number of slots. The first half of the
file is for calls that have asked a model or called a function, the second half for those of which others have seen
something: a tool or function was called, or a piece of a stream was sent. The system keeps the file when the process is
killed. A note takes less than a microsecond, where a message would take longer than the rest.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextvars import ContextVar
from typing import Final

_SLOT: Final = struct.Struct(">I")

#: The id of the current call on the port; ``None`` outside of a call.
call_id: ContextVar[int | None] = ContextVar("call_id", default=None)

_notes: mmap.mmap | None = None


def connect(path: str) -> None:
    """Open the file for the notes, and remove its name: it ends with the two processes that have it open.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is empty.
    """
    global _notes
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _notes = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    os.unlink(path)


def note(*, is_seen: bool = False) -> None:
    """Record that the current call is about to ask a model, or to do something that others see (``is_seen``)."""
    current = call_id.get()
    if _notes is not None and current is not None:
        half = len(_notes) // 2
        place = current * _SLOT.size % half
        _SLOT.pack_into(_notes, place, current)
        if is_seen:
            _SLOT.pack_into(_notes, half + place, current)
