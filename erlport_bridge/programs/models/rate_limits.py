"""How much may be asked of a model: requests per minute, and at the same time.

The limits are of a model at its address with its key, for all calls of the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.request import within

_MINUTE_S = 60.0


class ModelLimit:
    """Lets requests through in the order in which they came; on the event loop.

    Args:
        per_minute: Most requests that begin within any minute; ``None``: any number.
        at_once: Most that run at the same time; ``None``: any number.
    """

    def __init__(self, per_minute: int | None, at_once: int | None) -> None:
        self._per_minute = per_minute
        self._first_in_line = asyncio.Lock()
        self._running = asyncio.Semaphore(at_once) if at_once else None
        self._begun_at: deque[float] = deque()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelLimit:
        """A copy of a model has the same limit."""
        return self

    @contextlib.asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Wait until a request may be made, in the stage ``rate_limit``, and count it as running."""
        running = self._running or contextlib.nullcontext()
        with within("rate_limit"):
            # In line for both at once: a request that waits for its minute must not be overtaken.
            await self._first_in_line.acquire()
            try:
                await running.__aenter__()
                try:
                    await self._begin()
                except BaseException:
                    await running.__aexit__(None, None, None)
                    raise
            finally:
                self._first_in_line.release()
        try:
            yield
        finally:
            await running.__aexit__(None, None, None)

    @contextlib.contextmanager
    def passed_at_once(self, model: str) -> Iterator[None]:
        """Count a request as running of code on the event loop that cannot wait for its turn.

        Raises:
            OperationError: Of kind ``rate_limit``: it is not its turn.
        """
        left_s = self._left_s()
        if left_s > 0 or self._first_in_line.locked() or (self._running is not None and self._running.locked()):
            message = f"the limits of {model} are reached, and code that does not await its answer cannot wait for them"
            raise OperationError("rate_limit", message, model=model, retry_after=left_s or None)
        if self._running is not None:
            # Done at its first step, as it is not locked.
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
        """Give how long it takes until another request may begin."""
        while self._per_minute is not None and len(self._begun_at) >= self._per_minute:
            left_s = self._begun_at[0] + _MINUTE_S - time.monotonic()
            if left_s > 0:
                return left_s
            self._begun_at.popleft()
        return 0.0


@functools.lru_cache(maxsize=1024)
def limit_of(identity: Hashable, per_minute: int | None, at_once: int | None) -> ModelLimit | None:
    """Give the one limit of these sizes for what ``identity`` stands for."""
    return ModelLimit(per_minute, at_once) if per_minute or at_once else None
