"""Callers are served in turn, each in the order of its own items."""

from __future__ import annotations

import random

import pytest

from erlport_bridge.request import FairQueue


def filled(*items: tuple[str | None, int]) -> FairQueue[tuple[str | None, int]]:
    queue: FairQueue[tuple[str | None, int]] = FairQueue()
    for item in items:
        queue.add(item[0], item)
    return queue


def test_callers_take_turns() -> None:
    queue = filled(*[("a", number) for number in range(1_000)], ("b", 0), (None, 0), ("b", 1))
    assert [queue.take() for _ in range(6)] == [("a", 0), ("b", 0), (None, 0), ("a", 1), ("b", 1), ("a", 2)]
    assert len(queue) == 997


def test_last_place_of_the_caller_with_the_most_goes_to_one_with_fewer() -> None:
    queue = filled(("a", 0), ("a", 1), ("a", 2), ("b", 0))
    assert queue.make_room_for("a") is None
    assert queue.make_room_for("b") == ("a", 2)
    assert queue.make_room_for("b") is None
    assert queue.make_room_for("c") == ("a", 1)
    assert queue.make_room_for("c") is None
    assert len(queue) == 2


@pytest.mark.parametrize("seed", range(20))
def test_any_steps_leave_what_was_not_taken_in_the_order_that_was_told(seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311 - a test that can be repeated
    queue: FairQueue[tuple[str | None, int]] = FairQueue()
    kept: set[tuple[str | None, int]] = set()
    for number in range(300):
        caller = chosen.choice([None, "a", "b", "c"])
        step = chosen.random()
        if step < 0.5:
            ahead = list(queue.ahead_of(caller))
            queue.add(caller, (caller, number))
            kept.add((caller, number))
            order = list(queue.in_order())
            # Everything before the new item is ahead of it; the callers' turns may bring a few more.
            assert set(order[: order.index((caller, number))]) <= set(ahead)
        elif step < 0.7 and kept:
            expected = next(queue.in_order())
            taken = queue.take()
            assert taken == expected
            if chosen.random() < 0.3:
                queue.put_back(taken[0], taken)
                assert next(queue.in_order()) == taken
            else:
                kept.remove(taken)
        elif kept:
            some = chosen.choice(sorted(kept, key=repr))
            assert queue.remove(some[0], some)
            assert not queue.remove(some[0], some)
            kept.remove(some)
        assert len(queue) == len(kept)
        assert sorted(queue.in_order(), key=repr) == sorted(kept, key=repr)
    told = list(queue.in_order())
    assert [queue.take() for _ in told] == told
