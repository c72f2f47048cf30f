"""A compilation that is made again after its Python has ended goes on from what models had answered to it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "dspy.BootstrapFewShotWithRandomSearch": {"num_candidate_programs": 2, "max_bootstrapped_demos": 2},
    "dspy.COPRO": {"breadth": 3, "depth": 2},
    "dspy.SIMBA": {"bsize": 3, "num_candidates": 2, "max_steps": 2, "max_demos": 1},
    "dspy.MIPROv2": {
        "auto": None,
        "num_trials": 3,
        "num_candidates": 2,
        "max_bootstrapped_demos": 1,
        "minibatch": False,
    },
    "dspy.GEPA": {"max_metric_calls": 30, "reflection_minibatch_size": 2},
}
# Optimizers whose threads DSPy chooses have more requests in flight than one.
IN_FLIGHT = 4
EXAMPLES = [{"question": f"Q{number}", "answer": f"answer to Q{number}"} for number in range(6)]
METRIC = {"check": "equals", "field": "answer", "input": "answer"}


def port_of(ports: ExitStack, url: str, server: ModelServer) -> PortProcess:
    """Start a port with a store, whose model is that of the server."""
    port = ports.enter_context(PortProcess(["--modules=dspy_bridge"], environment={"DSPEX_STORE": url}))
    config = openai(server, "delay-15") | {"num_retries": 0}
    port.done("configure_lm", config.pop("provider"), config)
    return port


def options(optimizer: str, **more: Any) -> dict[str, Any]:
    """Return the options of a compilation that runs one example at a time."""
    return {"optimizer": optimizer, "metric": METRIC, "num_threads": 1, **OPTIMIZERS[optimizer], **more}


def learned(port: PortProcess, program: str) -> Any:
    """Return what the newest version of a program has learned."""
    return json.loads(port.done("dump_program", None, program))["learned"]


def kept(path: Path) -> int:
    """Return how many answers the file of a store keeps."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM dspex_answers").fetchone()[0])


@pytest.mark.parametrize(
    "optimizer",
    [name if number == 0 else pytest.param(name, marks=pytest.mark.long) for number, name in enumerate(OPTIMIZERS)],
)
def test_compilation_goes_on_after_a_kill_and_pays_for_no_answer_twice(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer, optimizer: str
) -> None:
    path = tmp_path / "dspex.db"
    url = f"sqlite:///{path}"
    first = port_of(ports, url, model_server)
    # Without a kill and a name, as the measure.
    whole = first.done("create_program", "question -> answer")["id"]
    compiled = first.done("compile_program", None, whole, EXAMPLES, options(optimizer))
    assert "kept_answers" not in compiled["compiled"]
    needed = len(model_server.requests)
    assert (needed > 10, kept(path)) == (True, 0)
    expected = learned(first, whole)

    program = first.done("create_program", "question -> answer")["id"]
    named = options(optimizer, request_id="tune-7")
    first.send_call("dspy_bridge", "compile_program", [None, program, EXAMPLES, named])
    model_server.wait_for_requests(needed + needed // 2)
    first.process.kill()
    first.process.wait()
    answered = kept(path)
    assert answered >= needed // 2 - IN_FLIGHT

    second = port_of(ports, url, model_server)
    again = second.done("compile_program", None, program, EXAMPLES, named)
    assert (again["version"], again["compiled"]["kept_answers"]) == (2, answered)
    # Only what was in flight at the kill is asked again.
    assert 2 * needed <= len(model_server.requests) <= 2 * needed + IN_FLIGHT
    assert learned(second, program) == expected
    assert kept(path) == 0

    # A repetition after its end, such as one whose answer was lost, makes no second version.
    count = len(model_server.requests)
    assert second.done("compile_program", None, program, EXAMPLES, named) == again
    third = port_of(ports, url, model_server)
    assert third.done("compile_program", None, program, EXAMPLES, named)["version"] == 2
    assert len(model_server.requests) == count
    # Another request, or other examples, are another compilation.
    other = options(optimizer, request_id="tune-8")
    assert third.done("compile_program", None, program, EXAMPLES, other)["version"] == 3
    assert third.done("compile_program", None, program, EXAMPLES[:5], named)["version"] == 4


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.9},
        {"metric": "exact_match"},
        {"metric": {**METRIC, "check": "contains"}},
        {"lm": "other"},
        {"max_labeled_demos": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_compilation_that_differs_is_not_answered_with_an_earlier_version(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer, changed: dict[str, Any]
) -> None:
    port = port_of(ports, f"sqlite:///{tmp_path}/dspex.db", model_server)
    program = port.done("create_program", "question -> answer")["id"]
    opts = {"optimizer": "dspy.BootstrapFewShot", "metric": METRIC, "request_id": "tune", "max_bootstrapped_demos": 1}
    if "lm" in changed:
        changed = {"lm": openai(model_server, "other")}
    versions = [
        port.done("compile_program", None, program, EXAMPLES, given)["version"]
        for given in (opts, {**opts, **changed}, opts, {**opts, **changed})
    ]
    assert versions == [2, 3, 2, 3]


def test_same_compilation_at_the_same_time_is_made_once(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer
) -> None:
    port = port_of(ports, f"sqlite:///{tmp_path}/dspex.db", model_server)
    program = port.done("create_program", "question -> answer")["id"]
    named = options("dspy.BootstrapFewShotWithRandomSearch", request_id="tune")
    for opts in (named, named, {**named, "timeout": 50}):
        port.send_call("dspy_bridge", "compile_program", [None, program, EXAMPLES, opts])
    answers = [port.receive()[2] for _ in range(3)]
    late = [answer for status, answer in answers if status == "error"]
    assert [details["kind"] for _, details in late] == ["timeout"]
    assert [answer["version"] for status, answer in answers if status == "ok"] == [2, 2]


def test_compilation_goes_on_in_postgresql_too(url: str, ports: ExitStack, model_server: ModelServer) -> None:
    optimizer = "dspy.COPRO"
    first = port_of(ports, url, model_server)
    program = first.done("create_program", "question -> answer")["id"]
    named = options(optimizer, request_id="tune", num_threads=4)
    first.send_call("dspy_bridge", "compile_program", [None, program, EXAMPLES, named])
    model_server.wait_for_requests(20)
    first.process.kill()
    first.process.wait()
    # The first answer, of two proposals, took two requests.
    asked = len(model_server.requests) - 1
    second = port_of(ports, url, model_server)
    report = second.done("compile_program", None, program, EXAMPLES, named)["compiled"]
    assert asked - IN_FLIGHT <= report["kept_answers"] <= asked
    assert (report["cache_hits"], report["warnings"]) == (report["kept_answers"], [])


def test_compilation_goes_on_without_a_store_that_fails(
    tmp_path: Path, ports: ExitStack, model_server: ModelServer
) -> None:
    path = tmp_path / "dspex.db"
    port = port_of(ports, f"sqlite:///{path}", model_server)
    program = port.done("create_program", "question -> answer")["id"]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE dspex_answers RENAME COLUMN body TO other")
    named = options("dspy.COPRO", request_id="tune")
    compiled = port.done("compile_program", None, program, EXAMPLES, named)
    assert compiled["version"] == 2
    (warning,) = compiled["compiled"]["warnings"]
    assert warning.startswith("a repetition would pay again: the store at ")
