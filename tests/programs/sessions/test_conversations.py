"""Conversations: kept apart by program and id, bounded, and read in the form in which they are given in."""

from __future__ import annotations

import random
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sessions import conversations as conversations_module
from erlport_bridge.programs.sessions import uses
from erlport_bridge.programs.sessions.conversations import MAX_TURNS, Conversation, Conversations
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
    monkeypatch.setattr(uses, "time", clock)
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


def test_conversation_of_a_running_call_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation whose call took longer than the limit was forgotten, and its turn lost."""
    clock = Clock.of(conversations_module, monkeypatch)
    monkeypatch.setattr(uses, "time", clock)
    known = Conversations(1, idle_s=10)
    with uses.during_operation():
        mine = known.opened("p", "a")
        clock.now_s += 60
        with pytest.raises(OperationError, match="delete_conversation"):
            known.opened("p", "b")
        mine.append({"question": "kept"})
    assert known.find("p", "a").turns() == [{"question": "kept"}]


class _CountedDict(dict[Any, Any]):
    """Counts how often something goes through all of its values."""

    passes = 0

    def values(self) -> Any:
        type(self).passes += 1
        return super().values()


def test_bytes_of_all_conversations_are_not_summed_at_each_call() -> None:
    """Each call went through all conversations of the port."""
    conversations = Conversations()
    for number in range(20):
        conversations.opened("p", f"user-{number}").append({"question": "x" * number})
    conversations._known = counted = _CountedDict(conversations._known)
    before = _CountedDict.passes
    for number in range(20):
        conversations.opened("p", f"user-{number}").append({"question": "y"})
    assert conversations.size > 0
    assert _CountedDict.passes == before
    assert conversations.size == sum(one.size for one in counted.values())


@pytest.mark.parametrize("seed", range(5))
def test_total_of_bytes_is_the_sum_whatever_happens(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - not for secrets
    conversations = Conversations(idle_s=0.0)
    gone: list[Conversation] = []
    for _ in range(300):
        one = conversations.opened(f"p{source.randrange(3)}", f"u{source.randrange(6)}", f"s{source.randrange(2)}")
        match source.randrange(7):
            case 0:
                one.replace([{"question": "x" * source.randrange(100)}] * source.randrange(60))
            case 1:
                one.keep_last(source.randrange(3))
            case 2:
                gone.append(conversations.delete(one.program_id, one.id))
            case 3:
                conversations.forget(f"s{source.randrange(2)}", [f"p{source.randrange(3)}"])
                gone.append(one)
            case _:
                one.append({"question": "x" * source.randrange(100)})
        for deleted in gone:
            # A call that was in flight when its conversation was deleted.
            deleted.append({"question": "late"})
        assert conversations.size == sum(other.size for other in conversations._known.values())
    assert conversations.size > 0
