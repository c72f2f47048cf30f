"""Threads of a store: order, cancelled work, errors, and their end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from functools import partial

import pytest

from erlport_bridge.store.hand_over import ClosedError, Threads


def test_work_is_done_in_its_order_and_its_result_comes_back() -> None:
    threads, done = Threads(1, "test"), list[int]()

    def do(number: int) -> int:
        done.append(number)
        return -number

    async def test() -> None:
        results = await asyncio.gather(*(threads.begin(partial(do, number)) for number in range(20)))
        assert results == [-number for number in done] == [-number for number in range(20)]

    asyncio.run(test())
    assert threads.run(threading.get_ident) != threading.get_ident()
    threads.close()


def test_as_many_run_at_once_as_there_are_threads() -> None:
    threads, meeting = Threads(3, "test"), threading.Barrier(3, timeout=30)

    async def test() -> None:
        assert sorted(await asyncio.gather(*(threads.begin(meeting.wait) for _ in range(3)))) == [0, 1, 2]

    asyncio.run(test())
    threads.close()


def test_cancelled_work_that_has_not_begun_is_not_done() -> None:
    threads, goes_on, done = Threads(1, "test"), threading.Event(), list[str]()

    def run() -> None:
        goes_on.wait(30)
        done.append("running")

    async def test() -> None:
        first = threads.begin(lambda: goes_on.wait(30))
        second = threads.begin(lambda: done.append("second"))
        third = threads.begin(lambda: done.append("third"))
        second.cancel()
        goes_on.set()
        await third
        # What has begun ends, and nobody gets its result.
        goes_on.clear()
        running = threads.begin(run)
        await asyncio.sleep(0.05)
        running.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await first

    asyncio.run(test())
    threads.close()
    assert done == ["third", "running"]


def test_error_is_raised_where_the_result_is_awaited() -> None:
    threads = Threads(1, "test")

    def fails() -> None:
        raise KeyError("x")

    async def test() -> None:
        with pytest.raises(KeyError):
            await threads.begin(fails)

    asyncio.run(test())
    with pytest.raises(KeyError):
        threads.run(fails)
    threads.begin_unawaited(fails)
    assert threads.run(lambda: 1) == 1
    threads.close()


def test_result_of_a_loop_that_has_ended_is_dropped() -> None:
    threads, goes_on = Threads(1, "test"), threading.Event()

    async def test() -> None:
        threads.begin(lambda: goes_on.wait(30))

    asyncio.run(test())
    goes_on.set()
    assert threads.run(lambda: 1) == 1
    threads.close()


def test_closed_threads_do_what_has_come_and_take_no_more() -> None:
    threads, done = Threads(2, "test"), list[int]()

    def do(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    for number in range(10):
        threads.begin_unawaited(partial(do, number))
    threads.close()
    assert sorted(done) == list(range(10))
    with pytest.raises(ClosedError):
        threads.run(lambda: 1)
    never = Threads(1, "test")
    never.close()
    with pytest.raises(ClosedError):
        never.begin_unawaited(lambda: 1)


def test_idle_thread_keeps_no_result_alive() -> None:
    class Result:
        pass

    threads = Threads(1, "test")
    result = weakref.ref(threads.run(Result))
    gc.collect()
    assert result() is None
    threads.close()
