"""What sessions and programs with a budget have spent is in the store: for all processes, and after a kill."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
HI = {"question": "hi"}


def port_of(ports: ExitStack, url: str) -> PortProcess:
    """Start a port with a store."""
    return ports.enter_context(PortProcess(["--modules=dspy_bridge"], environment={"DSPEX_STORE": url}))


def test_two_processes_and_the_next_one_spend_one_budget(url: str, ports: ExitStack, model_server: ModelServer) -> None:
    priced = openai(model_server, "gpt-4o-mini")
    first, second = port_of(ports, url), port_of(ports, url)
    one = first.done("execute_module", "dspy.Predict", QA, HI, {"lm": priced})["$meta"]
    tokens, cost = sum(used["total_tokens"] for used in one["usage"].values()), one["cost"]

    first.done("open_session", "user", {"max_tokens_total": 3 * tokens})
    program = first.done("create_program", {"signature": QA, "max_cost": 2.5 * cost}, {"session_id": "user"})["id"]
    opts = {"lm": priced}
    first.done("execute_program", None, program, HI, opts)
    second.done("execute_program", None, program, HI, opts)
    for port in (first, second):
        for described in (
            port.done("describe_program", None, program),
            port.done("list_programs", "user")[0],
            port.done("session_info", "user"),
            port.done("list_sessions")[0],
        ):
            assert described["budget"]["total_tokens"] == 2 * tokens
            assert described["budget"]["cost"] == pytest.approx(2 * cost)
    first.process.kill()
    first.process.wait()
    third = port_of(ports, url)
    third.done("execute_program", None, program, HI, opts)
    asked = len(model_server.requests)
    for port in (second, third):
        details = port.failed("execute_program", None, program, HI, opts)
        assert (details["kind"], details["budget"]["of"]) == ("budget", f'program "{program}"')
        details = port.failed("execute_module", "dspy.Predict", QA, HI, {**opts, "session_id": "user"})
        assert (details["budget"]["of"], details["budget"]["total_tokens"]) == ('session "user"', 3 * tokens)
    assert len(model_server.requests) == asked
    # What is closed is forgotten with what it has spent.
    third.done("close_session", "user")
    second.done("open_session", "user", {"max_tokens_total": 1})
    assert second.done("session_info", "user")["budget"]["total_tokens"] == 0
    second.done("execute_module", "dspy.Predict", QA, HI, {**opts, "session_id": "user"})


def test_versions_of_a_program_that_is_read_spend_one_budget(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer
) -> None:
    url = f"sqlite:///{tmp_path}/dspex.db"
    priced = openai(model_server, "gpt-4o-mini")
    first = port_of(ports, url)
    program = first.done("create_program", {"signature": QA, "max_tokens_total": 1})["id"]
    first.done(
        "compile_program", None, program, [{**HI, "answer": "x"}], {"optimizer": "dspy.LabeledFewShot", "lm": priced}
    )
    second = port_of(ports, url)
    second.done("execute_program", None, program, HI, {"lm": priced})
    for version in (1, 2):
        details = second.failed("execute_program", None, program, HI, {"lm": priced, "version": version})
        assert details["budget"]["of"] == f'program "{program}"'


def test_what_was_spent_before_there_was_a_limit_counts(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer
) -> None:
    port = port_of(ports, f"sqlite:///{tmp_path}/dspex.db")
    opts = {"lm": openai(model_server, "gpt-4o-mini"), "session_id": "user"}
    port.done("open_session", "user")
    port.done("execute_module", "dspy.Predict", QA, HI, opts)
    port.done("open_session", "user", {"max_tokens_total": 1})
    assert port.failed("execute_module", "dspy.Predict", QA, HI, opts)["kind"] == "budget"


def test_answer_that_the_store_could_not_count_is_given_and_counted_later(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer
) -> None:
    path = tmp_path / "dspex.db"
    port = port_of(ports, f"sqlite:///{path}")
    opts: dict[str, Any] = {"lm": openai(model_server, "gpt-4o-mini"), "session_id": "user"}
    port.done("open_session", "user", {"max_tokens_total": 1_000_000})
    # Reads go on, and writes do not.
    trigger = "CREATE TRIGGER broken BEFORE INSERT ON dspex_spent BEGIN SELECT RAISE(ABORT, 'broken'); END"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(trigger)
    first = port.done("execute_module", "dspy.Predict", QA, HI, opts)["$meta"]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER broken")
    second = port.done("execute_module", "dspy.Predict", QA, HI, opts)["$meta"]
    tokens = sum(used["total_tokens"] for one in (first, second) for used in one["usage"].values())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT tokens FROM dspex_spent").fetchall() == [(tokens,)]
