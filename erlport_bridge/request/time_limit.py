"""Wait for work for a limited time, and never forget that the waiting task is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


async def within_time(work: Awaitable[_Result], timeout_s: float | None) -> _Result:
    """Return the result of work, as ``asyncio.wait_for`` does.

    Before Python 3.12, ``asyncio.wait_for`` forgets that its caller is cancelled if the work ends at that moment: the
    caller goes on then, and nobody ever waits for it.

    Raises:
        asyncio.TimeoutError: The work took longer than ``timeout_s`` seconds. It is cancelled, and has ended.
    """
    task = asyncio.ensure_future(work)
    # If the caller is cancelled, nobody asks for the exception, which asyncio would log.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    is_late = False
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if is_late and task.cancelled():
        raise asyncio.TimeoutError
    return task.result()
