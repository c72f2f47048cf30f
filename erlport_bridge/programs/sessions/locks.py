"""Locks by name, for tasks: one call at a time changes a session, a program or a conversation."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Locks:
    """Locks by name; a lock that nobody waits for or holds is not kept."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    def of(self, *name: str) -> asyncio.Lock:
        """Return the lock of a name; whoever waits for it or holds it keeps it."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def passed(self, *name: str) -> None:
        """Wait until nobody holds the lock of a name."""
        lock = self._locks.get(name)
        if lock is not None and lock.locked():
            async with lock:
                pass
