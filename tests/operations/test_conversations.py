"""Conversations of programs over a real port: whose they are, and the operations on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"


@pytest.fixture
def program(port: PortProcess, model_server: ModelServer) -> dict[str, Any]:
    """Give a program with a history in the session ``app``."""
    spec = {"signature": QA, "history": True, "lm": openai(model_server, "answer")}
    made: dict[str, Any] = port.done("create_program", spec, {"session_id": "app"})
    return made


def ask(port: PortProcess, program: dict[str, Any], question: str, **opts: Any) -> str:
    return str(port.done("execute_program", "app", program["id"], {"question": question}, opts)["answer"])


def last_prompt(server: ModelServer) -> str:
    return json.dumps(server.requests[-1].body["messages"])


def test_two_users_of_one_program_do_not_see_each_others_text(
    port: PortProcess, model_server: ModelServer, program: dict[str, Any]
) -> None:
    """The memory belonged to the program."""
    ask(port, program, "My PIN is 1234", conversation="user-42")
    ask(port, program, "What is my PIN?", conversation="user-43")
    assert "1234" not in last_prompt(model_server)
    ask(port, program, "What is my PIN?", conversation="user-42")
    assert "1234" in last_prompt(model_server)


@pytest.mark.parametrize("operation", ["execute_program", "execute_program_batch"])
def test_a_call_that_does_not_say_whose_conversation_it_is_says_what_to_write(
    port: PortProcess, model_server: ModelServer, program: dict[str, Any], operation: str
) -> None:
    inputs: Any = {"question": "x"}
    if operation == "execute_program":
        details = port.failed(operation, "app", program["id"], inputs)
    else:
        ((_, (_, details)),) = port.done(operation, "app", program["id"], [inputs])
    assert (details["kind"], details["path"]) == ("input", "opts.conversation")
    assert 'conversation: "user-42"' in details["message"]
    assert model_server.requests == []


def test_the_session_of_a_user_is_a_conversation(
    port: PortProcess, model_server: ModelServer, program: dict[str, Any]
) -> None:
    for user in ("user-42", "user-43"):
        port.done("configure_lm", "embedded", {}, {"session_id": user})
    ask(port, program, "My PIN is 1234", session_id="user-42")
    # As Elixir calls a program by its id.
    for question, user in (("Hm?", "user-43"), ("And my PIN?", "user-42")):
        port.done("execute_program", user, program["id"], {"question": question}, {"session_id": user})
        assert ("1234" in last_prompt(model_server)) is (user == "user-42")
    assert port.done("conversation", None, program["id"], "user-42")["session_id"] == "user-42"
    port.done("close_session", "user-42")
    assert [one["id"] for one in port.done("list_conversations", "app", program["id"])] == ["user-43"]
    details = port.failed("execute_program", "app", program["id"], {"question": "x"}, {"session_id": "nobody"})
    assert details["kind"] == "session_not_found"


def test_the_model_of_the_users_session_is_asked(port: PortProcess, model_server: ModelServer) -> None:
    program = port.done("create_program", {"signature": QA, "history": True}, {"session_id": "app"})
    for session_id, model in (("app", "delay-1"), ("user-42", "answer")):
        config = openai(model_server, model)
        port.done("configure_lm", config.pop("provider"), config, {"session_id": session_id})
    asked = port.done("execute_program", "app", program["id"], "Why?", {"session_id": "user-42"})
    assert asked["$meta"]["model"] == "openai/answer"


def test_a_conversation_is_listed_read_cut_and_deleted(port: PortProcess, program: dict[str, Any]) -> None:
    for number in range(3):
        ask(port, program, f"Q{number}", conversation="user-42")
    (listed,) = port.done("list_conversations", None, program["id"])
    assert (listed["id"], listed["program_id"], listed["turn_count"]) == ("user-42", program["id"], 3)
    read = port.done("conversation", "app", program["id"], "user-42")
    assert read["turns"] == [{"question": f"Q{n}", "answer": f"answer to Q{n}"} for n in range(3)]
    assert port.done("cut_conversation", "app", program["id"], "user-42", 1)["turn_count"] == 1
    assert port.done("conversation", "app", program["id"], "user-42")["turns"] == read["turns"][2:]
    assert port.failed("cut_conversation", "app", program["id"], "user-42", -1)["path"] == "keep"
    assert port.done("delete_conversation", "app", program["id"], "user-42")["id"] == "user-42"
    assert port.failed("conversation", "app", program["id"], "user-42")["path"] == "conversation_id"


@pytest.mark.parametrize(
    "turns",
    [
        [{"question": "My PIN is 1234", "answer": "Noted."}],
        [{"role": "user", "content": "My PIN is 1234"}, {"role": "assistant", "content": "Noted."}],
    ],
)
def test_a_conversation_is_seeded_with_what_another_one_gave(
    port: PortProcess, model_server: ModelServer, program: dict[str, Any], turns: list[Any]
) -> None:
    port.done("seed_conversation", "app", program["id"], "a", turns)
    read = port.done("conversation", "app", program["id"], "a")["turns"]
    assert read == [{"question": "My PIN is 1234", "answer": "Noted."}]
    port.done("seed_conversation", "app", program["id"], "b", read)
    assert port.done("conversation", "app", program["id"], "b")["turns"] == read
    ask(port, program, "What is my PIN?", conversation="b")
    assert "My PIN is 1234" in last_prompt(model_server)
    assert "Noted." in last_prompt(model_server)


@pytest.mark.parametrize(
    ("turns", "path"),
    [
        ("no list", "turns"),
        (["no map"], "turns[0]"),
        ([{"question": "a"}, {"qestion": "b"}], "turns[1].qestion"),
        ([{"question": 5}], "turns[0].question"),
        ([{"role": "tool", "content": "x"}], "turns[0].role"),
    ],
)
def test_wrong_turns_are_refused_with_their_path(
    port: PortProcess, program: dict[str, Any], turns: Any, path: str
) -> None:
    details = port.failed("seed_conversation", "app", program["id"], "a", turns)
    assert (details["kind"], details["path"]) == ("input", path)
    assert port.done("list_conversations", "app", program["id"]) == []


def test_a_program_without_a_history_has_no_conversations(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    program = port.done("create_program", QA, {"session_id": "mine"})
    prediction = port.done("execute_program", None, program["id"], "Why?", {"conversation": "user-42"})
    assert "conversation" in str(prediction["$meta"]["warnings"])
    opts = {"conversation": "user-42", "strict": True}
    assert port.failed("execute_program", None, program["id"], "Why?", opts)["path"] == "opts.conversation"
    details = port.failed("list_conversations", None, program["id"])
    assert "history: true" in details["message"]


def test_examples_of_an_evaluation_are_no_turns(
    port: PortProcess, model_server: ModelServer, program: dict[str, Any]
) -> None:
    ask(port, program, "My PIN is 1234", conversation="user-42")
    examples = [{"question": f"E{number}", "answer": "x"} for number in range(2)]
    for opts in ({}, {"conversation": "user-42"}):
        report = port.done("evaluate_program", "app", program["id"], examples, {"metric": "equals", **opts})
        assert report["failed"] == 0
        assert ("1234" in last_prompt(model_server)) is bool(opts)
    assert port.done("conversation", "app", program["id"], "user-42")["turn_count"] == 1


def test_values_of_turns_have_the_types_of_their_fields(port: PortProcess, model_server: ModelServer) -> None:
    spec = {"signature": "question, day: date -> tags: list[str]", "history": True}
    program = port.done("create_program", {**spec, "lm": openai(model_server, "answer")})
    turn = {"question": "Q", "day": "2024-01-02", "tags": ["a"]}
    port.done("seed_conversation", None, program["id"], "a", [turn])
    (read,) = port.done("conversation", None, program["id"], "a")["turns"]
    assert str(read["day"]) == "2024-01-02"
    inputs = {"question": "Q2", "day": read["day"]}
    port.done("execute_program", None, program["id"], inputs, {"conversation": "a"})
    turns = port.done("conversation", None, program["id"], "a")["turns"]
    port.done("seed_conversation", None, program["id"], "b", turns)
    assert port.done("conversation", None, program["id"], "b")["turns"] == turns
