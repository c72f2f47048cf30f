"""Locks by name, for tasks: one call at a time changes a session, a program or a conversation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary


class Locks:
    """Locks by name; a lock that nobody waits for or holds is not kept."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, *name: str) -> AsyncIterator[None]:
        """Hold the lock of a name for the ``async with`` block."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield

    async def passed(self, *name: str) -> None:
        """Wait until nobody holds the lock of a name."""
        lock = self._locks.get(name)
        if lock is not None and lock.locked():
            async with lock:
                pass
