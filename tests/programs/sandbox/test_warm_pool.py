"""Things that are started before they are needed; here they are numbers that wait to be let go."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox.warm_pool import WarmPool, warm_size

WAIT_S = 5


class Starts:
    """Starts that last until they are let go, and what was ended."""

    def __init__(self) -> None:
        self.begun: list[Future[Any]] = []
        self.ended: list[int] = []
        self.changed = threading.Condition()

    def start(self) -> int:
        """Begin, and wait to be let go."""
        result: Future[int] = Future()
        with self.changed:
            self.begun.append(result)
            self.changed.notify_all()
        return result.result(WAIT_S)

    def end(self, item: int) -> None:
        """Note what was ended."""
        with self.changed:
            self.ended.append(item)
            self.changed.notify_all()

    def wait_begun(self, count: int) -> None:
        """Wait until so many have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.begun) >= count, WAIT_S)

    def wait_ended(self, count: int) -> list[int]:
        """Wait until so many were ended, and give them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.ended) >= count, WAIT_S)
            return list(self.ended)


@pytest.fixture
def starts() -> Starts:
    return Starts()


def test_nothing_is_started_before_the_first_one_is_taken(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    assert starts.begun == []
    pool.close()


def test_one_for_later_is_started_when_the_one_that_is_wanted_is_ready(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    first = pool.take()
    starts.wait_begun(1)
    assert len(starts.begun) == 1
    starts.begun[0].set_result(1)
    assert first.result(WAIT_S) == 1
    starts.wait_begun(2)
    starts.begun[1].set_result(2)
    # Ready or still on its way: it is the second one either way.
    assert pool.take().result(WAIT_S) == 2
    pool.close()


def test_one_that_was_cancelled_is_kept_for_the_next(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1)
    assert pool.take().cancel()
    starts.wait_begun(1)
    second = pool.take()
    starts.begun[0].set_result(1)
    assert second.result(WAIT_S) == 1
    pool.close()


def test_no_more_are_kept_than_asked_for(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=0)
    taken = pool.take()
    starts.wait_begun(1)
    starts.begun[0].set_result(1)
    pool.give_back(taken.result(WAIT_S))
    assert starts.wait_ended(1) == [1]
    assert len(starts.begun) == 1


def test_one_that_nobody_takes_is_ended(starts: Starts) -> None:
    pool = WarmPool(starts.start, starts.end, size=1, idle_s=0.01)
    pool.give_back(1)
    assert starts.wait_ended(1) == [1]


def test_failure_to_start_is_told_to_all_who_wait_and_tried_again_by_the_next(starts: Starts) -> None:
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


def test_closing_ends_what_is_ready_and_what_becomes_ready(starts: Starts) -> None:
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


def test_starts_are_counted_with_how_they_ended() -> None:
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
