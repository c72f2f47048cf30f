"""Real ports with one store: kills, pauses, and what the next port knows."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.store import postgresql

SPEC = {"signature": "question -> answer", "history": True}


def port_of(ports: ExitStack, url: str, **environment: str) -> PortProcess:
    """Start a port with a store."""
    flags = ["--modules=dspy_bridge"]
    return ports.enter_context(PortProcess(flags, environment={"DSPEX_STORE": url, **environment}))


def openai(server: ModelServer, model: str) -> dict[str, Any]:
    """Return the configuration of a model of the server, whose key stands in the environment of the ports."""
    return {"model": model, "api_key": "key-of-the-tests", "api_base": f"{server.url}/v1", "num_retries": 0}


def stored_turns(path: Path) -> int:
    """Return how many turns the file of a store has."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM dspex_turns").fetchone()[0])


def test_next_port_knows_all_that_a_killed_one_has_answered(
    url: str, ports: ExitStack, model_server: ModelServer
) -> None:
    key = {"THE_KEY": "key-of-the-tests"}
    first = port_of(ports, url, **key)
    first.done("configure_lm", "openai", openai(model_server, "answer"), {"session_id": "mine"})
    program = first.done("create_program", SPEC, {"session_id": "mine"})
    told = {"conversation": "user"}
    for question in ("one", "two"):
        answer = first.done("execute_program", "mine", program["id"], {"question": question}, told)
        assert "rehydrated" not in answer["$meta"]
    first.process.kill()
    second = port_of(ports, url, **key)
    assert second.done("session_info", "mine")["program_descriptions"] == [{**program, "calls": 0}]
    # Both the program and its conversation are read at this call; the session was above.
    third = second.done("execute_program", None, program["id"], {"question": "three"}, told)
    assert third["$meta"]["rehydrated"] is True
    asked = repr(model_server.requests[-1])
    assert all(question in asked for question in ("one", "two", "three"))
    fourth = second.done("execute_program", None, program["id"], {"question": "four"}, told)
    assert "rehydrated" not in fourth["$meta"]
    read = second.done("conversation", None, program["id"], "user")
    assert [turn["question"] for turn in read["turns"]] == ["one", "two", "three", "four"]
    assert second.done("ping")["store"]["ready"] is True
    second.done("close_session", "mine")
    assert second.done("list_sessions") == []


def test_copy_of_the_file_alone_has_everything_once_its_ports_have_ended(tmp_path: Path) -> None:
    """The log beside the file was not written to it: a copy had nothing of the last sessions."""
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    with ExitStack() as ports:
        workers = [port_of(ports, f"sqlite:///{path}") for _ in range(2)]
        for number, worker in enumerate(workers):
            worker.done("create_program", SPEC, {"session_id": f"session {number}"})
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.process.wait(30)
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM dspex_programs").fetchone() == (2,)


@pytest.mark.parametrize("name", ["request_id", "repetition"])
def test_call_that_is_repeated_after_a_kill_between_write_and_answer_is_one_turn(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer, name: str
) -> None:
    path = tmp_path / "dspex.db"
    first = port_of(ports, f"sqlite:///{path}", THE_KEY="key-of-the-tests")
    first.done("configure_lm", "openai", openai(model_server, "answer"), {"session_id": "mine"})
    program = first.done("create_program", SPEC, {"session_id": "mine"})["id"]
    call = [None, program, {"question": "once"}, {"conversation": "user", name: "r-1"}]
    first.send_call("dspy_bridge", "execute_program", call)
    while not stored_turns(path):
        time.sleep(0.01)
    # Nobody has read the answer.
    first.process.kill()
    asked = len(model_server.requests)
    second = port_of(ports, f"sqlite:///{path}", THE_KEY="key-of-the-tests")
    repeated = second.done("execute_program", *call)
    assert repeated["answer"] == "answer to once"
    assert len(model_server.requests) == asked
    # The name that a caller gives is that of several calls.
    named = {"conversation": "user", name: "r-1" if name == "request_id" else "r-2"}
    other = second.done("execute_program", None, program, {"question": "other"}, named)
    assert other["answer"] == "answer to other"
    turns = second.done("conversation", None, program, "user")["turns"]
    assert [turn["question"] for turn in turns] == ["once", "other"]


def test_port_that_was_stopped_and_replaced_writes_nothing(
    url: str, ports: ExitStack, model_server: ModelServer
) -> None:
    first, second = port_of(ports, url, THE_KEY="key-of-the-tests"), port_of(ports, url, THE_KEY="key-of-the-tests")
    first.done("configure_lm", "openai", openai(model_server, "delay-300"), {"session_id": "mine"})
    program = first.done("create_program", SPEC, {"session_id": "mine"})["id"]
    told = {"conversation": "user"}
    first.done("execute_program", None, program, {"question": "one"}, told)
    asked = len(model_server.requests)
    first.send_call("dspy_bridge", "execute_program", [None, program, {"question": "late"}, told])
    model_server.wait_for_requests(asked + 1)
    os.kill(first.process.pid, signal.SIGSTOP)
    second.done("execute_program", None, program, {"question": "two"}, told)
    os.kill(first.process.pid, signal.SIGCONT)
    status, (_, details) = first.receive()[2]
    assert (status, details["kind"], details["retryable"]) == ("error", "conflict", True)
    # Called again, it is done on what is true.
    first.done("execute_program", None, program, {"question": "three"}, told)
    for port in (first, second):
        turns = port.done("conversation", None, program, "user")["turns"]
        assert [turn["question"] for turn in turns] == ["one", "two", "three"]


def test_address_is_not_in_the_environment_of_children_and_not_in_errors(ports: ExitStack, tmp_path: Path) -> None:
    port = port_of(ports, "postgresql+psycopg://app:hunter2pass@127.0.0.1:9/dspex")
    details = port.failed("create_program", "question -> answer")
    assert (details["kind"], details["retryable"], details["stage"]) == ("store", True, "store")
    assert (
        "postgresql+psycopg://app@127.0.0.1:9/dspex cannot be reached; check that its server runs" in details["message"]
    )
    assert "hunter2pass" not in repr(details)
    assert port.done("ping")["store"]["ready"] is False
    # Calls without a session go on.
    port.done("configure_lm", "embedded", {})
    assert port.done("execute_module", "dspy.Predict", "question -> answer", {"question": "x"})["answer"]


@pytest.mark.parametrize("flag", ["--store=postgresql://app:hunter2pass@db/x", "--store=postgresql://db/x?password=a"])
def test_password_in_a_flag_is_refused(flag: str) -> None:
    with PortProcess([flag]) as port:
        text = port.stderr_text()
    assert "write it to DSPEX_STORE" in text
    assert "hunter2pass" not in text


def test_flag_names_the_store(tmp_path: Path) -> None:
    with PortProcess([f"--store=sqlite:///{tmp_path}/dspex.db"]) as port:
        program = port.done("create_program", "question -> answer", {"session_id": "mine"})
    with PortProcess([f"--store=sqlite:///{tmp_path}/dspex.db"]) as port:
        assert port.done("list_programs", "mine") == [program]
    assert (tmp_path / "dspex.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))
def test_database_that_is_restarted_is_used_again(ports: ExitStack, postgresql_server: postgresql.Server) -> None:
    postgresql_server.empty()
    port = port_of(ports, postgresql_server.url)
    port.done("configure_lm", "embedded", {})
    program = port.done("create_program", SPEC, {"session_id": "mine"})["id"]
    told = {"conversation": "user", "timeout": 60_000}
    port.done("execute_program", None, program, {"question": "one"}, told)
    postgresql_server.stop()
    try:
        details = port.failed("execute_program", None, program, {"question": "refused"}, told)
        assert (details["kind"], details["retryable"]) == ("store", True)
        assert port.done("execute_module", "dspy.Predict", "question -> answer", {"question": "x"})["answer"]
    finally:
        postgresql_server.start()
    port.done("execute_program", None, program, {"question": "two"}, told)
    turns = port.done("conversation", None, program, "user")["turns"]
    assert [turn["question"] for turn in turns] == ["one", "two"]


def test_same_call_made_again_while_it_runs_waits_for_its_answer(
    url: str, ports: ExitStack, model_server: ModelServer
) -> None:
    """All of them asked the model, and all but one were a conflict with `another worker`, which there was not."""
    port = port_of(ports, url)
    port.done("configure_lm", "openai", openai(model_server, "delay-300"))
    program = port.done("create_program", SPEC, {"session_id": "mine"})
    again = {"conversation": "user", "request_id": "once"}
    late = {**again, "timeout": 100}
    other = {**again, "conversation": "other"}
    calls = [("dspy_bridge", "execute_program", [None, program["id"], "Why?", opts]) for opts in (again,) * 4]
    calls += [("dspy_bridge", "execute_program", [None, program["id"], "Why?", opts]) for opts in (late, other)]
    numbers = port.send_calls(calls)
    answers = {}
    for _ in numbers:
        _, number, answer = port.receive()
        answers[number] = answer
    *same, too_late, elsewhere = (answers[number] for number in numbers)
    assert [answer[0] for answer in same] == ["ok"] * 4, [a[1][1]["message"] for a in same if a[0] == "error"]
    assert all(answer == same[0] for answer in same)
    assert too_late[1][1]["kind"] == "timeout", too_late
    assert "which has this request_id too, still runs" in too_late[1][1]["message"]
    assert elsewhere[0] == "ok"
    assert len(model_server.requests) == 2
    assert len(port.done("conversation", None, program["id"], "user")["turns"]) == 1
