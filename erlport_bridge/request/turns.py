"""Limit how many requests start work in one iteration (*turn*) of the event loop, so that deadlines fire in time.

An event loop runs all callbacks that are ready before it looks at its timers. If 200 predictions of a millisecond each
started at the same time, they would delay each other's deadlines by all of their time.

Callers take turns. A task whose turn cannot come before its deadline, at the rate at which the loop has worked lately,
is refused at once.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from typing import Final, NamedTuple

from erlport_bridge.request import context
from erlport_bridge.request.fair_queue import FairQueue

# A turn of the loop that takes longer halves the number of starts in the next turn.
_LONG_TURN_S: Final = 0.002
_MOST_IN_A_TURN: Final = 64
# How often the rate is measured, and the waiting tasks are compared with it.
_CHECK_S: Final = 0.25
# The rate is that of the last 8 measurements; it is known when they cover a second, without a moment in which no task
# waited.
_MEASUREMENTS: Final = 8
_LEAST_S: Final = 1.0

_queues: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue]] = weakref.WeakKeyDictionary()


class CannotBeginError(Exception):
    """The turn of a task cannot come before its deadline.

    Attributes:
        retry_after_s: After how many seconds a task of the same budget would have had its turn in time.
    """

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} calls wait to begin, and this one would not begin in time")
        self.retry_after_s = retry_after_s


class _Waiting(NamedTuple):
    coming: asyncio.Future[None]
    caller: str | None
    ends_at: float | None


async def turn() -> None:
    """Wait until the current task may start its work; return at once if the loop is not busy.

    While the task waits, its request is in stage ``queue``.

    Raises:
        CannotBeginError: The deadline of the task is likely to pass before.
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
        self._waiting: FairQueue[_Waiting] = FairQueue()
        self._most = 1
        self._left = 1
        # When the current turn began; ``None`` if no work started in the last turn.
        self._began_at: float | None = None
        # How many tasks have come and how many have started, together, now and at some earlier times. A loop that still
        # reads calls starts few, and will start more as soon as it has read them.
        self._worked = 0
        self._measured: deque[tuple[float, int]] = deque(maxlen=_MEASUREMENTS)

    def has_room(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Take a place in the current turn; return ``False`` if no place is left."""
        if self._began_at is None:
            self._begin(loop, time.monotonic())
        if self._waiting or not self._left:
            return False
        self._left -= 1
        return True

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that resolves when the caller may start.

        Raises:
            CannotBeginError: As :func:`turn`.
        """
        now = time.monotonic()
        if not self._waiting:
            self._measured.clear()
            self._measured.append((now, self._worked))
        caller, ends_at = context.caller.get(), context.ends_at.get()
        self._worked += 1
        rate = self._rate(now)
        # To count who is ahead takes as long as the queue is; mostly even all who wait would not be too many.
        if rate is not None and ends_at is not None and len(self._waiting) / rate > ends_at - now:
            late_s = sum(1 for _ in self._waiting.ahead_of(caller)) / rate - (ends_at - now)
            if late_s > 0:
                raise CannotBeginError(len(self._waiting), math.ceil(late_s))
        coming: asyncio.Future[None] = loop.create_future()
        self._waiting.add(caller, _Waiting(coming, caller, ends_at))
        return coming

    def _rate(self, now: float) -> float | None:
        """Return how many tasks start in a second, at most; ``None`` if that is not known yet."""
        since, worked = self._measured[0]
        return max(1, self._worked - worked) / (now - since) if now - since >= _LEAST_S else None

    def _refuse_late(self, now: float) -> None:
        """Refuse the tasks whose turn cannot come before their deadline."""
        rate = self._rate(now)
        self._measured.append((now, self._worked))
        if rate is None:
            return
        late = []
        # Whoever is refused does not delay those behind.
        ahead = 0
        for waiting in self._waiting.in_order():
            if waiting.coming.done():
                continue
            late_s = 0 if waiting.ends_at is None else ahead / rate - (waiting.ends_at - now)
            if late_s > 0:
                late.append((waiting, late_s))
            else:
                ahead += 1
        for waiting, late_s in late:
            self._waiting.remove(waiting.caller, waiting)
            waiting.coming.set_exception(CannotBeginError(ahead, math.ceil(late_s)))

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
            coming = self._waiting.take().coming
            if not coming.done():  # it is done if its task was cancelled
                coming.set_result(None)
                self._left -= 1
                self._worked += 1
        if self._waiting and now - self._measured[-1][0] > _CHECK_S:
            self._refuse_late(now)
