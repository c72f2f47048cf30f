"""Callers take turns for the limits of a model, and a request that is cancelled leaves them in order."""

from __future__ import annotations

import asyncio

import pytest

from erlport_bridge import request
from erlport_bridge.programs.models.rate_limits import ModelLimit


async def ask(limit: ModelLimit, caller: str | None, done: list[str | None]) -> None:
    """Make one request of a caller."""
    request.caller.set(caller)
    async with limit.passed():
        await asyncio.sleep(0)
        done.append(caller)


def test_caller_with_one_request_does_not_wait_for_the_hundred_of_another() -> None:
    """The limits admitted requests in the order of arrival: one user's batch delayed all other users."""

    async def run() -> list[str | None]:
        limit, done = ModelLimit(None, 1), list[str | None]()
        many = [asyncio.create_task(ask(limit, "many", done)) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.gather(*many, asyncio.create_task(ask(limit, "one", done)))
        return done

    assert asyncio.run(run()).index("one") < 5


@pytest.mark.parametrize("steps", range(8))
def test_cancelled_requests_leave_the_limit_to_others(steps: int) -> None:
    """Whenever it is cancelled: while it waits, when it has just got its turn, or while it runs."""

    async def run() -> int:
        limit, done = ModelLimit(None, 1), list[str | None]()
        tasks = [asyncio.create_task(ask(limit, str(number % 3), done)) for number in range(12)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        await asyncio.wait_for(ask(limit, None, done), 20)
        return len(done)

    assert asyncio.run(run()) >= 7
