"""Rate limits of language models: most requests per minute, and most concurrent requests.

A limit counts all requests of the port to one model at one address with one API key.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from typing import Any

from erlport_bridge import request
from erlport_bridge.errors import OperationError
from erlport_bridge.request import FairQueue, within

_MINUTE_S = 60.0


class ModelLimit:
    """The limit of one model; callers take turns. Not thread-safe: used on the event loop only.

    Args:
        per_minute: Most requests that begin within any minute; ``None``: no limit.
        at_once: Most requests that run at the same time; ``None``: no limit.
    """

    def __init__(self, per_minute: int | None, at_once: int | None) -> None:
        self._per_minute = per_minute
        self._head_of_queue = _HeadOfQueue()
        self._running = asyncio.Semaphore(at_once) if at_once else None
        self._begun_at: deque[float] = deque()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelLimit:
        """Return the limit itself: copies of a model share its limit."""
        return self

    @contextlib.asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Wait, in the stage ``rate_limit``, until a request may begin; count it as running in the ``with`` block."""
        running = self._running or contextlib.nullcontext()
        with within("rate_limit"):
            # One queue for both limits: a request that waits for its minute must not be overtaken.
            await self._head_of_queue.acquire()
            try:
                await running.__aenter__()
                try:
                    await self._begin()
                except BaseException:
                    await running.__aexit__(None, None, None)
                    raise
            finally:
                self._head_of_queue.release()
        try:
            yield
        finally:
            await running.__aexit__(None, None, None)

    @contextlib.contextmanager
    def passed_at_once(self, model: str) -> Iterator[None]:
        """Count a request of sync code on the event loop, which cannot wait, as running in the ``with`` block.

        Raises:
            OperationError: Of kind ``rate_limit``: the request would have to wait.
        """
        left_s = self._left_s()
        if left_s > 0 or self._head_of_queue.locked() or (self._running is not None and self._running.locked()):
            message = f"the limits of {model} are reached, and code that does not await its answer cannot wait for them"
            raise OperationError("rate_limit", message, model=model, retry_after=left_s or None)
        if self._running is not None:
            # The coroutine ends at its first step, since the semaphore is not locked.
            with contextlib.suppress(StopIteration):
                self._running.acquire().send(None)
        if self._per_minute is not None:
            self._begun_at.append(time.monotonic())
        try:
            yield
        finally:
            if self._running is not None:
                self._running.release()

    async def _begin(self) -> None:
        while (left_s := self._left_s()) > 0:
            await asyncio.sleep(left_s)
        if self._per_minute is not None:
            self._begun_at.append(time.monotonic())

    def _left_s(self) -> float:
        """Return the seconds until the next request may begin."""
        while self._per_minute is not None and len(self._begun_at) >= self._per_minute:
            left_s = self._begun_at[0] + _MINUTE_S - time.monotonic()
            if left_s > 0:
                return left_s
            self._begun_at.popleft()
        return 0.0


class _HeadOfQueue:
    """A lock for which callers take turns; the requests of each are served in the order of arrival."""

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._is_locked = False

    def locked(self) -> bool:
        """Return whether a request has the lock."""
        return self._is_locked

    async def acquire(self) -> None:
        """Wait for the lock and take it."""
        if not self._is_locked:
            self._is_locked = True
            return
        caller = request.caller.get()
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(caller, coming)
        try:
            await coming
        except asyncio.CancelledError:
            if not self._waiting.remove(caller, coming) and not coming.cancelled():
                # It has got the lock, and is cancelled before it could use it.
                self.release()
            raise

    def release(self) -> None:
        """Pass the lock to the next request, if one waits."""
        while self._waiting:
            coming = self._waiting.take()
            if not coming.done():
                coming.set_result(None)
                return
        self._is_locked = False


@functools.lru_cache(maxsize=1024)
def limit_of(identity: Hashable, per_minute: int | None, at_once: int | None) -> ModelLimit | None:
    """Return the limit of these sizes for a model: the same limit for equal ``identity``; ``None``: no limit."""
    return ModelLimit(per_minute, at_once) if per_minute or at_once else None
