"""Limit how many requests start work in one iteration (*turn*) of the event loop, so that deadlines fire in time.

An event loop runs all callbacks that are ready before it looks at its timers. If 200 predictions of a millisecond each
started at the same time, they would delay each other's deadlines by all of their time.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from typing import Final

from erlport_bridge.request import context

# A turn of the loop that takes longer halves the number of starts in the next turn.
_LONG_TURN_S: Final = 0.002
_MOST_IN_A_TURN: Final = 64

_queues: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue]] = weakref.WeakKeyDictionary()


async def turn() -> None:
    """Wait until the current task may start its work; return at once if the loop is not busy.

    While the task waits, its request is in stage ``queue``.
    """
    loop = asyncio.get_running_loop()
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = _Queue()
    if queue.has_room(loop):
        return
    coming = queue.join(loop)
    queued = context.queued.get()
    if queued is not None:
        queued.add(coming)
    try:
        await coming
    finally:
        if queued is not None:
            queued.discard(coming)


class _Queue:
    """The queue of tasks that wait for a turn of one loop; only the loop's thread uses it.

    It holds no reference to its loop, which is its key in a weak dictionary and would never be freed.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._most = 1
        self._left = 1
        # When the current turn began; ``None`` if no work started in the last turn.
        self._began_at: float | None = None

    def has_room(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Take a place in the current turn; return ``False`` if no place is left."""
        if self._began_at is None:
            self._begin(loop, time.monotonic())
        if self._waiting or not self._left:
            return False
        self._left -= 1
        return True

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that resolves when the caller may start."""
        coming: asyncio.Future[None] = loop.create_future()
        self._waiting.append(coming)
        return coming

    def _begin(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._began_at, self._left = now, self._most
        loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        is_long = self._began_at is not None and now - self._began_at > _LONG_TURN_S
        self._most = max(1, self._most // 2) if is_long else min(_MOST_IN_A_TURN, self._most * 2)
        if not self._waiting and self._left:
            self._began_at = None
            return
        self._begin(loop, now)
        while self._waiting and self._left:
            coming = self._waiting.popleft()
            if not coming.done():  # it is done if its task was cancelled
                coming.set_result(None)
                self._left -= 1
