"""Hold what a running operation uses: until the operation ends, no session or conversation of it counts as idle."""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import ContextVar
from typing import Final, Protocol, TypeVar


class Kept(Protocol):
    """What is kept until it has been idle for too long.

    Attributes:
        id: Its id.
        used_at: When it was last used, by the clock ``time.monotonic``.
        users: How many running operations use it.
    """

    id: str
    used_at: float
    users: int


_Kept = TypeVar("_Kept", bound=Kept)


class _Uses:
    """What one running operation uses."""

    def __init__(self) -> None:
        self.items: dict[int, Kept] = {}
        # Work that goes on in a thread after its operation has ended holds nothing.
        self.has_ended = False


_current: ContextVar[_Uses | None] = ContextVar("uses", default=None)
# Protects all `_Uses` and the counts of users: an operation may use a session in several threads.
_lock: Final = threading.Lock()


def during_operation() -> contextlib.AbstractContextManager[None]:
    """Hold whatever the ``with`` block touches until the end of the block, which counts as a use too."""
    return _Holding()


class _Holding:
    """The ``with`` block of an operation; a class, because a generator takes four times as long."""

    __slots__ = ("_previous", "_uses")

    def __enter__(self) -> None:
        self._uses = _Uses()
        self._previous = _current.set(self._uses)

    def __exit__(self, *_raised: object) -> None:
        _current.reset(self._previous)
        uses = self._uses
        with _lock:
            uses.has_ended = True
            for item in uses.items.values():
                item.users -= 1
                item.used_at = time.monotonic()
            uses.items.clear()


def touch(item: Kept) -> None:
    """Record a use, which lasts until the end of the running operation, if there is one."""
    item.used_at = time.monotonic()
    uses = _current.get()
    if uses is None or id(item) in uses.items:
        return
    with _lock:
        if not uses.has_ended:
            uses.items[id(item)] = item
            item.users += 1


def held(kind: type[_Kept], name: str) -> _Kept | None:
    """Return what the running operation holds of this kind and id, also if it was closed since; ``None``: nothing."""
    uses = _current.get()
    if uses is None:
        return None
    with _lock:
        return next((item for item in uses.items.values() if isinstance(item, kind) and item.id == name), None)


def is_idle(item: Kept, limit_s: float) -> bool:
    """Return whether nothing has used an item for longer than ``limit_s``."""
    return not item.users and time.monotonic() - item.used_at > limit_s


def idle_ms(item: Kept) -> int:
    """Return for how long nothing has used an item, in milliseconds."""
    return 0 if item.users else round((time.monotonic() - item.used_at) * 1000)
