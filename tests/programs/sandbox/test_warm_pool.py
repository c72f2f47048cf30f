"""The pool starts items before calls need them; the items here are numbers, whose starts a test releases."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox.warm_pool import WarmPool, warm_size

WAIT_S = 30


class Starts:
    """Starts that last until the test releases them, and the items that were ended."""

    def __init__(self) -> None:
        self.begun: list[Future[Any]] = []
        self.ended: list[int] = []
        self.changed = threading.Condition()

    def start(self) -> int:
        """Begin a start, and wait until the test releases it."""
        result: Future[int] = Future()
        with self.changed:
            self.begun.append(result)
            self.changed.notify_all()
        return result.result(WAIT_S)

    def end(self, item: int) -> None:
        """Record that an item was ended."""
        with self.changed:
            self.ended.append(item)
            self.changed.notify_all()

    def wait_begun(self, count: int) -> None:
        """Wait until this number of starts has begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.begun) >= count, WAIT_S)

    def wait_ended(self, count: int) -> list[int]:
        """Wait until this number of items was ended, and return them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.ended) >= count, WAIT_S)
            return list(self.ended)


@pytest.fixture
def starts() -> Starts:
    return Starts()


def test_nothing_is_started_before_the_first_take(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    assert starts.begun == []
    pool.close()


def test_idle_item_is_started_when_the_wanted_one_is_ready(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    first = pool.take()
    starts.wait_begun(1)
    assert len(starts.begun) == 1
    starts.begun[0].set_result(1)
    assert first.result(WAIT_S) == 1
    starts.wait_begun(2)
    starts.begun[1].set_result(2)
    # Ready or still starting: it is the second item either way.
    assert pool.take().result(WAIT_S) == 2
    pool.close()


def test_item_of_a_cancelled_take_is_kept_for_the_next(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    assert pool.take().cancel()
    starts.wait_begun(1)
    second = pool.take()
    starts.begun[0].set_result(1)
    assert second.result(WAIT_S) == 1
    pool.close()


def test_take_at_the_end_of_a_start_gets_that_item(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its end and its item's arrival no start was seen: another one began, and could come first."""
    pool = WarmPool(starts.start, starts.end, size=1)
    lock = threading.Lock()
    taken: Future[Any] = Future()
    takes = iter([True])

    class TakingAfterwards:
        """The pool's lock; a take comes as soon as the start's thread has released it."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            if threading.current_thread().name == "sandbox start" and next(takes, False):
                future = pool.take()
                taken.set_result(future.result() if future.done() else None)

    monkeypatch.setattr(pool, "_lock", TakingAfterwards())
    pool.take().cancel()
    starts.wait_begun(1)
    starts.begun[0].set_result(1)
    assert taken.result(WAIT_S) == 1
    # This one is for the next take.
    starts.wait_begun(2)
    pool.close()
    starts.begun[1].set_result(2)
    assert starts.wait_ended(1) == [2]


def test_no_more_items_are_kept_than_the_size(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=0)
    taken = pool.take()
    starts.wait_begun(1)
    starts.begun[0].set_result(1)
    pool.give_back(taken.result(WAIT_S))
    assert starts.wait_ended(1) == [1]
    assert len(starts.begun) == 1


def test_idle_item_is_ended_after_its_time(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1, idle_s=0.01)
    pool.give_back(1)
    assert starts.wait_ended(1) == [1]


def test_failed_start_reaches_all_waiting_callers_and_the_next_tries_again(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    first = pool.take()
    starts.wait_begun(1)
    starts.begun[0].set_exception(OSError("no memory"))
    with pytest.raises(OSError, match="no memory"):
        first.result(WAIT_S)
    second = pool.take()
    starts.wait_begun(2)
    starts.begun[1].set_result(2)
    assert second.result(WAIT_S) == 2
    pool.close()


def test_closing_ends_ready_and_starting_items(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=2)
    pool.give_back(1)
    assert pool.take().result(WAIT_S) == 1
    starts.wait_begun(1)
    pool.give_back(2)
    pool.close()
    starts.begun[0].set_result(3)
    assert sorted(starts.wait_ended(2)) == [2, 3]
    with pytest.raises(OperationError, match="about to end"):
        pool.take().result(WAIT_S)


@pytest.mark.parametrize("text", ["-1", "17", "many", ""])
def test_wrong_number_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DSPEX_WARM_SANDBOXES", text)
    with pytest.raises(OperationError, match="an integer from 0 to 16 in the environment at DSPEX_WARM_SANDBOXES"):
        warm_size()


def test_starts_are_counted_by_outcome() -> None:
    outcomes: list[Exception | int] = [OSError("no memory"), 1]

    def start() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    pool = WarmPool(start, lambda item: None, size=0)
    assert pool.report() == {"ready": 0, "starting": 0, "starts": 0, "failed_starts": 0, "start_ms": None}
    with pytest.raises(OSError, match="no memory"):
        pool.take().result(WAIT_S)
    assert pool.take().result(WAIT_S) == 1
    report = pool.report()
    assert (report["starts"], report["failed_starts"], report["starting"]) == (1, 1, 0)
    assert report["start_ms"]["max"] >= 0
