"""Work that is waited for: its time, and the cancellation of who waits."""

from __future__ import annotations

import asyncio

import pytest

from erlport_bridge.request import within_time


def test_result_and_error_are_those_of_the_work() -> None:
    async def work(error: Exception | None) -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 7

    assert asyncio.run(within_time(work(None), None)) == 7
    with pytest.raises(KeyError):
        asyncio.run(within_time(work(KeyError("x")), 60))
    # A timeout of the work itself is not one of the limit, and has its own message.
    with pytest.raises(asyncio.TimeoutError, match="own"):
        asyncio.run(within_time(work(asyncio.TimeoutError("own")), 60))


def test_late_work_is_cancelled_and_has_ended() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(within_time(work(), 0.01))
    assert ended == [True]


def test_cancellation_is_not_lost_when_the_work_ends_at_that_moment() -> None:
    async def run() -> bool:
        loop = asyncio.get_running_loop()
        work = loop.create_future()
        waiting = asyncio.ensure_future(within_time(work, 60))
        await asyncio.sleep(0.01)
        work.set_result("at the same moment")
        # The waiting task would be woken in the next turn of the loop; it is cancelled before.
        waiting.cancel()
        await asyncio.wait({waiting})
        return waiting.cancelled()

    assert asyncio.run(run())
