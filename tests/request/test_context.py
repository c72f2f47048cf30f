"""Test the context of a request."""

from __future__ import annotations

import asyncio

import pytest

from erlport_bridge.request import context as request
from erlport_bridge.request.context import Waiting
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock whose time the test sets."""
    return Clock.of(request, monkeypatch)


def test_time_in_which_several_items_wait_counts_once(clock: Clock) -> None:
    waiting = Waiting()
    assert (bool(waiting), waiting.waited_s()) == (False, 0.0)
    waiting.add("first")
    clock.now_s += 1
    waiting.add("second")
    clock.now_s += 2
    waiting.discard("first")
    clock.now_s += 4
    assert (bool(waiting), waiting.waited_s()) == (True, 7.0)
    waiting.discard("second")
    clock.now_s += 8
    assert (bool(waiting), waiting.waited_s()) == (False, 7.0)
    waiting.add("third")
    clock.now_s += 16
    waiting.discard("third")
    waiting.discard("third")
    assert waiting.waited_s() == 23.0


def test_call_that_has_its_result_is_not_counted_as_cancelled() -> None:
    async def call(name: str | None) -> int:
        request.begin(name)
        request.has_result()
        request.has_result()
        return request.cancel("answered")

    assert asyncio.run(call("answered")) == 0
    assert asyncio.run(call(None)) == 0
