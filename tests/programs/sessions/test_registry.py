"""The registry of a port: its sessions and programs, their limits and their idle time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.configuration import language_model
from erlport_bridge.programs.sessions import registry as sessions_module
from erlport_bridge.programs.sessions import uses
from erlport_bridge.programs.sessions.registry import Sessions
from tests.clock import Clock

QA = "question -> answer"
EMBEDDED = language_model("embedded", {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that the test moves."""
    clock = Clock.of(sessions_module, monkeypatch)
    monkeypatch.setattr(uses, "time", clock)
    return clock


def kind_of_call(function: object, *arguments: object) -> str:
    assert callable(function)
    with pytest.raises(OperationError) as caught:
        function(*arguments)
    return caught.value.kind


def test_unknown_ids_are_not_answered_with_ids_of_others() -> None:
    registry = Sessions()
    registry.add_program(QA, "user-42")
    other = registry.add_program(QA, None)
    with pytest.raises(OperationError, match=r'unknown session "user-43"; it was .*open_session') as caught:
        registry.find("user-43")
    assert "user-42" not in caught.value.message
    # Callers of a program whose session nobody has named know the program alone.
    message = r'unknown session "user-43" of the program "p-1"; .* create the program anew with create_program or load'
    with pytest.raises(OperationError, match=message):
        registry.find_program("user-43", "p-1")
    with pytest.raises(OperationError, match=r"unknown program .* create_program or load_program") as caught:
        registry.find_program(None, other.id[:-1])
    assert other.id not in caught.value.message
    # A program of the same session may be suggested.
    with pytest.raises(OperationError, match=f'did you mean "{other.id}"'):
        registry.find_program(other.session_id, other.id[:-1])


def test_program_without_a_session_gets_one_of_its_own() -> None:
    registry = Sessions()
    first, second = registry.add_program(QA, None), registry.add_program(QA, None)
    assert first.session_id != second.session_id
    assert registry.find_program(None, first.id) is first
    assert kind_of_call(registry.find_program, first.session_id, second.id) == "program_not_found"


def test_signature_of_a_program_may_be_a_charlist() -> None:
    assert Sessions().add_program([ord(letter) for letter in QA], None).whole.text == "question: str -> answer: str"


def test_model_of_a_call_goes_before_the_sessions_and_the_ports() -> None:
    registry = Sessions()
    own, sessions_own = language_model("embedded", {}), language_model("embedded", {})
    assert kind_of_call(registry.model_for, None) == "lm_not_configured"
    registry.configure(EMBEDDED, None)
    registry.configure(sessions_own, "mine")
    assert registry.model_for(None) is EMBEDDED
    assert registry.model_for("mine", None) is sessions_own
    assert registry.model_for("mine", None, own) is own
    assert kind_of_call(registry.model_for, "other", own) == "session_not_found"


def test_idle_session_is_closed_and_a_used_one_is_not(clock: Clock) -> None:
    registry = Sessions(session_idle_ms=10_000)
    used = registry.add_program(QA, "used")
    registry.add_program(QA, "idle")
    for _ in range(3):
        clock.now_s += 6
        registry.find_program("used", used.id)
    assert [session.id for session in registry.all()] == ["used"]
    assert kind_of_call(registry.find, "idle") == "session_not_found"


def test_session_is_not_idle_while_an_operation_uses_it_and_from_its_end_on(clock: Clock) -> None:
    """Idleness was counted from the start of a call, so that one longer than the limit lost its session."""
    registry = Sessions(session_idle_ms=10_000)
    program = registry.add_program(QA, "mine")
    with uses.during_operation():
        registry.find_program(None, program.id)
        clock.now_s += 60
        assert [session.describe()["idle_ms"] for session in registry.all()] == [0]
    clock.now_s += 6
    assert [session.describe()["idle_ms"] for session in registry.all()] == [6_000]
    clock.now_s += 6
    assert registry.all() == []


def test_closed_session_is_found_by_the_operation_that_used_it_alone() -> None:
    registry = Sessions()
    registry.configure(EMBEDDED, "mine")
    program = registry.add_program(QA, "mine")
    with uses.during_operation():
        registry.find("mine")
        registry.close("mine")
        assert registry.model_for("mine") is EMBEDDED
        assert registry.all() == []
        assert kind_of_call(registry.add_version, program, {}, {}) == "session_not_found"
        # Another session of that id has nothing of the first one.
        assert registry.add_program(QA, "mine").id in registry.all()[0].programs
        assert program.id in registry.find("mine").programs
    assert program.id not in registry.find("mine").programs


def test_describing_a_session_does_not_count_as_use(clock: Clock) -> None:
    registry = Sessions(session_idle_ms=10_000)
    program = registry.add_program(QA, "mine")
    clock.now_s += 6
    assert registry.find("mine", is_used=False).describe()["idle_ms"] == 6_000
    assert registry.find_program("mine", program.id, is_used=False) is program
    assert registry.find_program(None, program.id, is_used=False) is program
    clock.now_s += 6
    assert kind_of_call(registry.find, "mine") == "session_not_found"


def test_programs_are_bounded_until_one_is_deleted(clock: Clock) -> None:
    registry = Sessions(max_programs=2, session_idle_ms=10_000)
    first = registry.add_program(QA, "mine")
    registry.add_program(QA, "mine")
    assert kind_of_call(registry.add_program, QA, "mine") == "overloaded"
    registry.delete_program("mine", first.id)
    registry.add_program(QA, "mine")
    clock.now_s += 11
    registry.add_program(QA, "other")


def test_sessions_opened_for_a_model_alone_are_bounded_too() -> None:
    registry = Sessions(max_programs=2)
    for session_id in ("a", "b", "a"):
        registry.configure(EMBEDDED, session_id)
    assert kind_of_call(registry.configure, EMBEDDED, "c") == "overloaded"
    registry.close("a")
    registry.configure(EMBEDDED, "c")


def test_bound_holds_under_threads() -> None:
    registry = Sessions(max_programs=50)

    def add(number: int) -> bool:
        try:
            registry.add_program(QA, f"session-{number % 7}")
        except OperationError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add, range(200))) == 50
    assert sum(len(session.programs) for session in registry.all()) == 50


def test_turns_of_a_conversation_are_what_the_next_call_sees() -> None:
    registry = Sessions()
    program = registry.add_program({"signature": QA, "history": True}, None)
    assert program.asked.text == "question: str -> answer: str"
    mine = registry.conversations.opened(program.id, "mine")
    for number in range(2):
        values = program.with_history({"question": f"Q{number}"}, mine.turns())
        mine.append(program.turn_of(values, {"answer": f"A{number}", "$meta": {}}))
        program.count_call()
    messages = program.with_history({"question": "next"}, mine.turns())["history"].messages
    assert messages == [{"question": "Q0", "answer": "A0"}, {"question": "Q1", "answer": "A1"}]
    assert program.describe()["calls"] == 2


def test_conversations_end_with_their_program_and_with_the_session_through_which_they_began(clock: Clock) -> None:
    registry = Sessions(session_idle_ms=10_000)
    shared, other = (registry.add_program({"signature": QA, "history": True}, name) for name in ("app", "app"))
    registry.configure(EMBEDDED, "user-42")
    for program, name, through in ((shared, "a", None), (shared, "user-42", "user-42"), (other, "b", None)):
        registry.conversations.opened(program.id, name, through)
    registry.close("user-42")
    assert [one.id for one in registry.conversations.of(shared.id)] == ["a"]
    registry.delete_program("app", shared.id)
    assert [one.id for one in registry.conversations.of(other.id)] == ["b"]
    clock.now_s += 11
    assert registry.all() == []
    assert len(registry.conversations) == 0


def test_a_new_version_goes_on_with_the_conversations() -> None:
    registry = Sessions()
    program = registry.add_program({"signature": QA, "history": True}, None)
    registry.conversations.opened(program.id, "mine").append({"question": "Q", "answer": "A"})
    newer = registry.add_version(program, {}, {})
    assert registry.conversations.find(newer.id, "mine").turns() == [{"question": "Q", "answer": "A"}]


@pytest.mark.parametrize("find", ["find", "find_program"])
def test_what_is_unknown_may_be_from_before_a_restart_of_python(find: str) -> None:
    """After a restart a session was said to be closed or idle, which it was not."""
    registry = Sessions()
    arguments = ("user-42",) if find == "find" else (None, "program-0")
    with pytest.raises(OperationError, match=r"Python was started at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"):
        getattr(registry, find)(*arguments)


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5", "", "٣", "²", "9" * 5_000])
def test_wrong_limit_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    for variable in ("DSPEX_MAX_PROGRAMS", "DSPEX_MAX_CONVERSATIONS", "DSPEX_SESSION_IDLE_MS"):
        monkeypatch.setenv(variable, limit)
        with pytest.raises(OperationError, match=variable):
            Sessions.from_environment()
        monkeypatch.delenv(variable)
