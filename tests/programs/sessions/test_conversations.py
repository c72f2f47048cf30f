"""Conversations: kept apart by program and id, bounded, and read in the form in which they are given in."""

from __future__ import annotations

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sessions import conversations as conversations_module
from erlport_bridge.programs.sessions.conversations import MAX_TURNS, Conversations
from tests.clock import Clock

IMAGE = "data:image/png;base64,iVBORw0KGgo="


def test_conversations_of_one_program_do_not_see_each_other() -> None:
    known = Conversations()
    known.opened("p", "a").append({"question": "mine"})
    assert known.opened("p", "b").turns() == []
    assert known.opened("other", "a").turns() == []
    assert known.opened("p", "a").turns() == [{"question": "mine"}]
    assert [one.id for one in known.of("p")] == ["a", "b"]


def test_a_conversation_keeps_its_last_turns() -> None:
    one = Conversations().opened("p", "a")
    for number in range(MAX_TURNS + 5):
        one.append({"number": number})
    assert [turn["number"] for turn in one.turns()] == list(range(5, MAX_TURNS + 5))
    one.keep_last(2)
    assert [turn["number"] for turn in one.turns()] == [MAX_TURNS + 3, MAX_TURNS + 4]
    one.replace({"number": number} for number in range(MAX_TURNS + 1))
    assert one.describe()["turn_count"] == MAX_TURNS
    one.keep_last(0)
    assert one.turns() == []


def test_turns_of_a_running_call_are_not_changed_by_another() -> None:
    one = Conversations().opened("p", "a")
    running = one.turns()
    one.append({"question": "second"})
    assert running == []


def test_values_of_turns_are_read_as_terms() -> None:
    one = Conversations().opened("p", "a")
    one.append({"picture": dspy.Image(IMAGE), "tags": {"a"}, "count": 3, "nothing": None})
    (turn,) = one.read()["turns"]
    assert turn["picture"]["$type"] == "Image"
    assert (turn["tags"], turn["count"], turn["nothing"]) == ({"a"}, 3, None)


def test_conversations_are_bounded_and_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock.of(conversations_module, monkeypatch)
    known = Conversations(2, idle_s=10)
    known.opened("p", "a")
    known.opened("p", "b")
    with pytest.raises(OperationError, match="delete_conversation") as caught:
        known.opened("p", "c")
    assert caught.value.kind == "overloaded"
    assert known.opened("p", "a").id == "a"
    known.delete("p", "b")
    known.opened("p", "c")
    clock.now_s += 6
    known.opened("p", "a")
    clock.now_s += 6
    known.opened("p", "d")
    assert [one.id for one in known.of("p")] == ["a", "d"]


def test_an_unknown_conversation_tells_nobody_the_ids_of_others() -> None:
    known = Conversations()
    known.opened("p", "user-42")
    for call in (known.find, known.delete):
        with pytest.raises(OperationError) as caught:
            call("p", "user-43")
        assert (caught.value.kind, caught.value.facts["path"]) == ("input", "conversation_id")
        assert "user-42" not in caught.value.message
