"""Who may begin work on the event loop now: a few in each of its turns, so that a deadline waits for a few at most.

A loop runs all that is ready before it looks at its timers. Of 200 predictions of a millisecond that begin at the same
time, each would hold up the deadlines of all the others.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from typing import Final

from erlport_bridge.request import context

# How long a turn of the loop may take before fewer begin in the next one.
_LONG_TURN_S: Final = 0.002
_MOST_IN_A_TURN: Final = 64

_queues: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue]] = weakref.WeakKeyDictionary()


async def turn() -> None:
    """Wait until the running task may begin its work; at once if the loop is not busy.

    Meanwhile its request is in stage ``queue``.
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
    """What waits for a turn of one loop; only the loop's thread comes here.

    It does not hold its loop, which is its key and would never be freed.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._most = 1
        self._left = 1
        # When the turn that runs has begun; none while nothing has begun in the last one.
        self._began_at: float | None = None

    def has_room(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Take a place in the turn that runs, if there is one."""
        if self._began_at is None:
            self._begin(loop, time.monotonic())
        if self._waiting or not self._left:
            return False
        self._left -= 1
        return True

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Give what is done when it is the next one's turn."""
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
            if not coming.done():  # by the end of its task
                coming.set_result(None)
                self._left -= 1
