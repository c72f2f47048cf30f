"""Sessions and the programs that they hold, over a real port."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from erlport_bridge.term import Atom
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
TEXT = (
    "Photosynthesis turns light into chemical energy. It happens in the chloroplasts of plants. "
    "A leaf holds about 500000 chloroplasts per square millimetre. Cats sleep 13 hours a day."
)


def test_program_is_kept_with_its_session(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    spec = {"signature": "context, question -> answer", "modules": ["dspy.ChainOfThought", "dspy.Predict"]}
    program = port.done("create_program", spec, {"session_id": "mine"})
    assert (program["session_id"], program["version"]) == ("mine", 1)
    inputs = {"context": TEXT, "question": "Where does photosynthesis happen?"}
    for session_id in ("mine", None):
        prediction = port.done("execute_program", session_id, program["id"], inputs)
        assert prediction["answer"] == "It happens in the chloroplasts of plants."
        assert prediction["reasoning"]
    (listed,) = port.done("list_programs", "mine")
    assert (listed["id"], listed["calls"]) == (program["id"], 2)
    assert [session["id"] for session in port.done("list_sessions")] == ["mine"]
    port.done("delete_program", "mine", program["id"])
    assert port.failed("execute_program", "mine", program["id"], inputs)["kind"] == "program_not_found"
    port.done("close_session", "mine")
    assert port.failed("execute_program", "mine", program["id"], inputs)["kind"] == "session_not_found"


@pytest.mark.parametrize("optimizer", [None, "dspy.BootstrapFewShot"])
@pytest.mark.parametrize(
    ("wrong", "given", "hint"),
    [
        ({"qestion": "a", "answer": "b"}, "answer, qestion", ' (did you mean "question" by "qestion"?)'),
        ({"context": "a", "Question": "a"}, "context, Question", ' (did you mean "question" by "Question"?)'),
        ({"context": "a", "other": "b", "answer": "c"}, "context, answer, other", ""),
        ({}, "nothing", ""),
    ],
)
def test_example_without_an_input_names_what_it_has(
    shared_port: PortProcess, optimizer: str | None, wrong: dict[str, str], given: str, hint: str
) -> None:
    """A misspelt input was taken for a field of the metric: `missing at inputs: question; given: nothing`."""
    spec = {"signature": "question, context: str | None -> answer", "modules": ["dspy.Predict"], "lm": "embedded"}
    program = shared_port.done("create_program", spec)["id"]
    opts: dict[str, Any] = {"metric": "exact_match"}
    examples = [{"question": "a", "answer": "b"}, wrong]
    if optimizer is None:
        place = "examples[1]"
        _, (_, details) = shared_port.done("evaluate_program", None, program, examples, opts)["results"]
        details = details[-1] if isinstance(details, tuple) else details
    else:
        place = "trainset[1]"
        details = shared_port.failed("compile_program", None, program, examples, {**opts, "optimizer": optimizer})
    shared_port.done("delete_program", None, program)
    assert details["message"] == f"missing at {place}: question; given: {given}{hint}"
    assert (details["kind"], details["path"]) == ("input", f"{place}.question")


@pytest.mark.parametrize("empty", ["", Atom("")])
def test_empty_text_where_a_name_is_needed_is_called_empty(shared_port: PortProcess, empty: str) -> None:
    """An empty string is a string: `expected a string at opts.conversation, got ""`."""
    details = shared_port.failed("execute_program", None, "p", {"question": "a"}, {"conversation": empty})
    assert details["path"] == "opts.conversation"
    assert details["message"].startswith("expected a string that is not empty at opts.conversation, got ")


def test_session_and_its_programs_can_be_described(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {}, {"session_id": "mine"})
    made = [port.done("create_program", spec, {"session_id": "mine"}) for spec in (QA, "text -> summary")]
    port.done("create_program", QA, {"session_id": "other"})
    for session_id in ("mine", None):
        described = port.done("describe_program", session_id, made[1]["id"])
        assert described == {**made[1], "learned": {}, "neighbours": None, "portable": False}
    session = port.done("session_info", "mine")
    assert session.pop("program_descriptions") == made
    assert session.pop("idle_ms") >= 0
    (listed,) = [one for one in port.done("list_sessions") if one["id"] == "mine"]
    del listed["idle_ms"]
    assert session == listed
    assert (session["model"], session["programs"]) == ("embedded/extractive", [one["id"] for one in made])


def test_describing_an_unknown_session_or_program_names_it(port: PortProcess) -> None:
    program = port.done("create_program", QA, {"session_id": "mine"})
    details = port.failed("session_info", "mien")
    assert (details["kind"], details["path"]) == ("session_not_found", "session_id")
    assert 'unknown session "mien"' in details["message"]
    assert '"mine"' not in details["message"]
    assert port.failed("describe_program", "mien", program["id"])["kind"] == "session_not_found"
    details = port.failed("describe_program", "mine", "program-0")
    assert (details["kind"], details["path"]) == ("program_not_found", "program_id")
    assert port.failed("describe_program", None, 5)["path"] == "program_id"
    assert port.failed("session_info", None)["path"] == "session_id"


def test_session_has_a_model_of_its_own(port: PortProcess, model_server: ModelServer) -> None:
    port.done("configure_lm", "embedded", {})
    config = openai(model_server, "answer")
    port.done("configure_lm", config.pop("provider"), config, {"session_id": "mine"})
    asked = port.done("execute_module", "dspy.Predict", QA, {"question": "x"}, {"session_id": "mine"})
    assert (asked["answer"], asked["$meta"]["model"]) == ("answer to x", "openai/answer")
    assert port.done("execute_module", "dspy.Predict", QA, {"question": "x"})["$meta"]["model"] == "embedded/extractive"


def test_program_with_a_history_shows_its_model_the_conversation(port: PortProcess, model_server: ModelServer) -> None:
    spec = {"signature": QA, "history": True, "lm": openai(model_server, "answer")}
    program = port.done("create_program", spec)
    for question in ("first question", "second question"):
        port.done("execute_program", None, program["id"], {"question": question}, {"conversation": "user-42"})
    last = json.dumps(model_server.requests[-1].body)
    assert "first question" in last
    assert "answer to first question" in last


def test_second_stage_sees_the_first_ones_answer(port: PortProcess, model_server: ModelServer) -> None:
    spec = {"signature": QA, "modules": ["dspy.Predict", "dspy.Predict"], "lm": openai(model_server, "answer")}
    program = port.done("create_program", spec)
    prediction = port.done("execute_program", None, program["id"], {"question": "x"})
    assert "[[ ## previous_answer ## ]]\\nanswer to x" in json.dumps(model_server.requests[1].body)
    assert prediction["$meta"]["usage"]["openai/answer"]["total_tokens"] > 0


def test_stages_with_signatures_of_their_own_are_wired_by_name(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    stages = [
        {"module": "dspy.Predict", "signature": "text, question -> fact"},
        {
            "module": "dspy.ReAct",
            "signature": "fact -> number: int",
            "tools": ["calculator"],
            "options": {"max_iters": 2},
        },
    ]
    program = port.done("create_program", {"modules": stages})
    assert program["signature"] == "text: str, question: str -> fact: str, number: int"
    inputs = {"text": TEXT, "question": "How many hours do cats sleep?"}
    prediction = port.done("execute_program", None, program["id"], inputs)
    assert prediction["fact"] == "Cats sleep 13 hours a day."
    assert isinstance(prediction["number"], int)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ({"signature": QA, "modules": ["dspy.Predcit"]}, "module_not_found", "dspy.Predict"),
        ({"signature": QA, "modules": []}, "input", "1 to 20 modules"),
        ({"signature": QA, "modles": []}, "input", 'did you mean "modules"?'),
        ({"signature": "question"}, "signature", "->"),
        ({"modules": ["dspy.Predict"]}, "signature", "spec.signature"),
        ({"signature": QA, "history": "yes"}, "input", "spec.history"),
        ({"signature": "history, q -> a", "history": True}, "signature", "history"),
        ({"signature": "reasoning -> a", "modules": ["dspy.ChainOfThought"]}, "signature", "reserved"),
        ({"signature": QA, "modules": [{"module": "dspy.Predict", "options": {"x": 1}}]}, "input", "unknown option"),
        ({"signature": QA, "modules": [{"module": "dspy.ReAct", "tools": ["nope"]}]}, "tool", "nope"),
        ({"signature": QA, "modules": [{"module": "dspy.Predict", "signature": "z -> a"}]}, "signature", '"z"'),
        ({"signature": QA, "config": {"tmperature": 1}}, "input", "tmperature"),
        ({"signature": QA, "lm": "opnai/x"}, "provider", "openai"),
        (42, "input", "spec"),
    ],
)
def test_wrong_program_is_refused_and_nothing_is_kept(
    shared_port: PortProcess, spec: Any, kind: str, message: str
) -> None:
    details = shared_port.failed("create_program", spec)
    assert details["kind"] == kind, details
    assert message in details["message"]
    assert shared_port.done("list_programs") == []


@pytest.mark.skipif("TEST_WITH_STORE" in os.environ, reason="with a store these limits are those of the memory alone")
def test_programs_are_bounded_and_idle_sessions_are_closed() -> None:
    limits = {"DSPEX_MAX_PROGRAMS": "2", "DSPEX_SESSION_IDLE_MS": "400"}
    with PortProcess(environment=limits) as port:
        port.done("create_program", QA, {"session_id": "mine"})
        port.done("create_program", QA, {"session_id": "mine"})
        details = port.failed("create_program", QA, {"session_id": "mine"})
        assert details["kind"] == "overloaded"
        assert "delete_program or close_session" in details["message"]
        time.sleep(0.8)
        assert port.failed("list_programs", "mine")["kind"] == "session_not_found"
        port.done("create_program", QA, {"session_id": "mine"})


def test_session_of_the_options_counts_where_none_is_named_and_may_not_contradict_it(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    program = port.done("create_program", QA, {"session_id": "mine"})
    port.done("create_program", QA, {"session_id": "other"})
    assert port.done("execute_program", None, program["id"], "Why?", {"session_id": "mine"})["answer"]
    assert port.done("execute_program", "mine", program["id"], "Why?", {"session_id": "mine"})["answer"]
    elsewhere = port.failed("execute_program", None, program["id"], "Why?", {"session_id": "other"})
    assert elsewhere["kind"] == "program_not_found"
    contradicted = port.failed("execute_program", "mine", program["id"], "Why?", {"session_id": "other"})
    assert (contradicted["kind"], contradicted["path"]) == ("input", "opts.session_id")
