"""Programs of a pool's configuration: called by name, the same in every process, and not changed by calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.term import Atom
from tests.port_process import PortProcess

CHAT = {"signature": "question -> answer", "history": True}


def text_of(port: PortProcess, spec: object) -> str:
    """Return a program as ``dump_program`` writes it."""
    return str(port.done("dump_program", None, port.done("create_program", spec)["id"]))


def test_program_is_called_by_its_name_in_every_way(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    texts = {"triage": text_of(port, "question -> answer"), "chat": text_of(port, CHAT)}
    assert {one["id"] for one in port.done("provide_programs", texts)} == {"triage", "chat"}
    inputs = {"question": "Where is Rome? Rome is in Italy."}
    for name in ("triage", Atom("triage")):
        assert port.done("execute_program", None, name, inputs)["answer"]
    ((status, _),) = port.done("execute_program_batch", None, "triage", [inputs])
    assert status == "ok"
    report = port.done("evaluate_program", None, "triage", [{**inputs, "answer": "Italy"}], {"metric": "exact_match"})
    assert (report["count"], report["failed"]) == (1, 0)
    port.done("execute_program", None, "chat", inputs, {"conversation": "user"})
    (told,) = port.done("list_conversations", None, "chat")
    assert (told["id"], told["turn_count"]) == ("user", 1)
    assert port.done("describe_program", None, "triage")["calls"] == 4
    assert port.done("dump_program", None, "triage") == texts["triage"]
    assert {one["id"] for one in port.done("list_programs")} >= {"triage", "chat"}
    assert "$pool" not in [one["id"] for one in port.done("list_sessions")]
    assert "did you mean" in port.failed("execute_program", None, "triaeg", inputs)["message"]


def test_program_is_called_through_the_session_of_a_user(port: PortProcess) -> None:
    """The model of the session is asked, also for a program that keeps no conversations."""
    port.done("provide_programs", {"triage": text_of(port, "question -> answer")})
    inputs = {"question": "Where is Rome? Rome is in Italy."}
    assert port.failed("execute_program", None, "triage", inputs)["kind"] == "lm_not_configured"
    port.done("configure_lm", "embedded", {}, {"session_id": "user"})
    assert port.done("execute_program", None, "triage", inputs, {"session_id": "user"})["answer"]
    assert port.failed("execute_program", None, "triage", inputs, {"session_id": "no"})["kind"] == "session_not_found"


CHANGES: list[tuple[str, list[Any]]] = [
    ("delete_program", [None, "chat"]),
    ("close_session", ["$pool"]),
    ("configure_lm", ["embedded", {}, {"session_id": "$pool"}]),
    ("create_program", ["question -> answer", {"session_id": "$pool"}]),
    ("compile_program", [None, "chat", [], {"optimizer": "dspy.LabeledFewShot"}]),
]


def check_unchangeable(port: PortProcess, operation: str, args: list[Any]) -> None:
    """Check that no call changes the program ``chat``."""
    details = port.failed(operation, *args)
    assert details["kind"] == "input"
    assert "change a copy: load_program" in details["message"]
    assert port.done("describe_program", None, "chat")["version"] == 1


@pytest.mark.parametrize(("operation", "args"), CHANGES)
def test_calls_cannot_change_it(shared_port: PortProcess, operation: str, args: list[Any]) -> None:
    shared_port.done("provide_programs", {"chat": text_of(shared_port, CHAT)})
    check_unchangeable(shared_port, operation, args)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda stored: "no JSON", "expected the JSON that dump_program gave"),
        (lambda stored: "[" * 99_999, "that dump_program gave at text: its values are nested too deeply"),
        (lambda stored: json.dumps({**stored, "format_version": 99}), "the text has 99"),
        (lambda stored: json.dumps({**stored, "spec": {"modules": ["dspy.Predcit"]}}), 'did you mean "dspy.Predict"'),
        (lambda stored: 5, "expected a string at text, got 5"),
    ],
)
def test_wrong_text_is_named_and_none_of_the_programs_changes(
    shared_port: PortProcess, change: Any, problem: str
) -> None:
    text = text_of(shared_port, "question -> answer")
    shared_port.done("provide_programs", {"before": text})
    wrong = {"good": text, "triage": change(json.loads(text))}
    details = shared_port.failed("provide_programs", wrong)
    assert details["message"].startswith('program "triage" cannot be loaded: ')
    assert (problem in details["message"], details["path"]) == (True, "programs.triage"), details["message"]
    assert shared_port.done("describe_program", None, "before")["id"] == "before"
    assert shared_port.failed("describe_program", None, "good")["kind"] == "program_not_found"
    assert shared_port.done("provide_programs", {}) == []
    assert shared_port.failed("describe_program", None, "before")["kind"] == "program_not_found"


def test_its_conversations_are_stored_and_it_is_not(tmp_path: Path) -> None:
    environment = {"DSPEX_STORE": f"sqlite:///{tmp_path}/dspex.db"}
    flags = ["--modules=dspy_bridge"]
    with PortProcess(flags, environment=environment) as first:
        first.done("configure_lm", "embedded", {})
        text = text_of(first, CHAT)
        first.done("provide_programs", {"chat": text})
        for operation, args in CHANGES:
            check_unchangeable(first, operation, args)
        for question in ("one", "two"):
            first.done("execute_program", None, "chat", {"question": question}, {"conversation": "user"})
        first.process.kill()
    with PortProcess(flags, environment=environment) as second:
        second.done("configure_lm", "embedded", {})
        assert second.failed("execute_program", None, "chat", {"question": "x"})["kind"] == "program_not_found"
        second.done("provide_programs", {"chat": text})
        assert next(one["id"] for one in second.done("list_programs")) == "chat"
        second.done("execute_program", None, "chat", {"question": "three"}, {"conversation": "user"})
        read = second.done("conversation", None, "chat", "user")
        assert [turn["question"] for turn in read["turns"]] == ["one", "two", "three"]
        # The turns do not fit another program that has the name now.
        second.done("provide_programs", {"chat": text_of(second, {**CHAT, "signature": "question: date -> answer"})})
        inputs, told = {"question": "2026-01-01"}, {"conversation": "user"}
        details = second.failed("execute_program", None, "chat", inputs, told)
        assert details["kind"] == "store"
        assert "delete_conversation" in details["message"]
        second.done("delete_conversation", None, "chat", "user")
        assert second.done("execute_program", None, "chat", inputs, told)["answer"]
