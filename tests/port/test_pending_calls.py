"""One caller cannot take all places for calls in flight."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.port.pending_calls import PendingCall, PendingCalls
from erlport_bridge.port.protocol import Call


def call(call_id: int, *arguments: Any) -> PendingCall:
    return PendingCall(Call(call_id, "dspy_bridge", "execute_module", list(arguments)))


@pytest.mark.parametrize("option", ["caller", "session_id"])
def test_callers_with_few_calls_have_places_when_one_has_taken_all(option: str) -> None:
    """A single call behind 10,000 calls of another caller was refused."""
    pending = PendingCalls(640)
    many = [call(number, {option: "many"}) for number in range(1_000)]
    taken = [one for one in many if pending.add(one)]
    assert len(taken) == 650
    others = [call(2_000 + number, {option: f"other {number}"}) for number in range(1_000)]
    admitted = [one for one in others if pending.add(one)]
    # A quarter more at most, and what is refused has a place until it is answered.
    assert not admitted
    for one in many[650:]:
        pending.answer(one)
    for one in others:
        pending.answer(one)
    admitted = [one for one in others if pending.add(one)]
    assert len(admitted) == 160 - 10


def test_place_of_a_caller_with_few_calls_is_free_again_after_its_answer() -> None:
    pending = PendingCalls(64)
    many = [call(number, {"caller": "many"}) for number in range(65)]
    assert all(pending.add(one) for one in many)
    mine = call(100, {"caller": "mine"})
    assert pending.add(mine)
    refused = call(101, {"caller": "mine"})
    assert not pending.add(refused)
    assert pending.answer(refused)
    assert pending.answer(mine)
    assert pending.add(call(102, {"caller": "mine"}))


@pytest.mark.parametrize("arguments", [(), ({},), ({"caller": 5},), (["caller"],), ("caller",), (None,)])
def test_calls_that_name_no_caller_have_the_common_places(arguments: tuple[Any, ...]) -> None:
    pending = PendingCalls(64)
    assert all(pending.add(call(number)) for number in range(64))
    assert not pending.add(call(100, *arguments))
