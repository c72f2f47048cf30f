"""Record which calls ask a model or call a function, in memory that the other side reads after this process has died.

The id of a call is written to a slot of a file in memory: its id modulo the number of slots. The first slots of the
file are for calls that have asked a model or called a function, as many others for those of which others have seen
something: a tool or function was called, a piece of a stream was sent, or the store was changed. The last
:data:`BATCHES` slots are for batches: the id, and how many items have begun. The system keeps the file when the process
is killed. A note takes less than a microsecond, where a message would take longer than the rest.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextvars import ContextVar
from typing import Final

_SLOT: Final = struct.Struct(">I")
_BATCH: Final = struct.Struct(">II")
#: How many slots there are for batches, which are fewer than other calls.
BATCHES: Final = 4_096

#: The id of the current call on the port; ``None`` outside of a call.
call_id: ContextVar[int | None] = ContextVar("call_id", default=None)

_notes: mmap.mmap | None = None


def connect(path: str) -> None:
    """Open the file for the notes, and remove its name: it ends with the two processes that have it open.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is too small.
    """
    global _notes
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size <= _BATCH.size * BATCHES:
            raise ValueError("there is no room for notes")
        _notes = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    os.unlink(path)


def note(*, is_seen: bool = False) -> None:
    """Record that the current call is about to ask a model, or to do something that others see (``is_seen``)."""
    current = call_id.get()
    if _notes is not None and current is not None:
        half = _batches_at(_notes) // 2
        place = current * _SLOT.size % half
        _SLOT.pack_into(_notes, place, current)
        if is_seen:
            _SLOT.pack_into(_notes, half + place, current)


def note_begun(count: int) -> None:
    """Record that ``count`` items of the current call, which is a batch, have begun: always its first ones."""
    current = call_id.get()
    if _notes is not None and current is not None:
        place = _batches_at(_notes) + current % BATCHES * _BATCH.size
        # At once: packed into place, the id would be there before its count.
        _notes[place : place + _BATCH.size] = _BATCH.pack(current, count)


def _batches_at(notes: mmap.mmap) -> int:
    return len(notes) - _BATCH.size * BATCHES
