"""Tasks whose first step runs at once, by asyncio and by hand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from erlport_bridge.request import eager_tasks

_name: ContextVar[str] = ContextVar("name", default="nobody")
_BEGIN: list[Callable[..., asyncio.Task[Any]]] = [eager_tasks.begin, eager_tasks._begin_by_hand]


@pytest.fixture(params=_BEGIN, ids=["begin", "by hand"])
def begin(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]:
    """Return a function that begins a task on the running loop."""
    return lambda work: request.param(work, asyncio.get_running_loop())


def test_first_step_runs_at_once_in_the_new_task_and_its_own_context(begin: Any) -> None:
    seen: list[Any] = []

    async def work() -> str:
        seen.append(asyncio.current_task())
        _name.set("work")
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        return _name.get()

    async def main() -> None:
        outer = asyncio.current_task()
        task = begin(work())
        assert seen == [task]
        assert not task.done()
        assert asyncio.current_task() is outer
        assert _name.get() == "nobody"
        assert await task == "work"
        assert seen == [task, task]
        # The loop is as it was.
        await asyncio.create_task(asyncio.sleep(0))

    asyncio.run(main())


def test_work_that_waits_for_nothing_has_ended(begin: Any) -> None:
    async def work(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 7

    async def main() -> None:
        assert begin(work(None)).result() == 7
        with pytest.raises(KeyError, match="x"):
            begin(work(KeyError("x"))).result()

    asyncio.run(main())


def test_tasks_within_the_first_step_and_its_cancellation(begin: Any) -> None:
    ended = []
    others: list[asyncio.Task[None]] = []

    async def inner(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    async def work() -> None:
        others.extend([begin(inner(1)), asyncio.create_task(inner(2))])
        await asyncio.wait_for(inner(3), 60)

    async def main() -> None:
        task = begin(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [3]
        for other in others:
            other.cancel()
        await asyncio.wait(others)
        assert sorted(ended) == [1, 2, 3]

    asyncio.run(main())


def test_exit_of_the_first_step_is_raised_and_leaves_the_loop_as_it_was(begin: Any) -> None:
    async def work() -> None:
        sys.exit(3)

    async def main() -> None:
        with pytest.raises(SystemExit):
            begin(work())
        assert await begin(asyncio.sleep(0, "fine")) == "fine"

    asyncio.run(main())


def test_many_at_once_on_a_loop_that_is_busy(begin: Any) -> None:
    async def work(number: int) -> int:
        for _ in range(number % 4):
            await asyncio.sleep(0)
        return number

    async def main() -> None:
        tasks = [begin(work(number)) for number in range(500)]
        assert await asyncio.gather(*tasks) == list(range(500))

    asyncio.run(main())


def test_what_others_have_set_on_the_loop_stays(begin: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_soon, calls = loop.call_soon, []

        def noted(*arguments: Any, **named: Any) -> Any:
            calls.append(arguments)
            return call_soon(*arguments, **named)

        loop.call_soon = noted  # type: ignore[assignment, method-assign]
        assert await begin(asyncio.sleep(0, "fine")) == "fine"
        assert loop.call_soon is noted
        assert calls

    asyncio.run(main())
