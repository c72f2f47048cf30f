"""A session that a call uses stays open until the call ends, and a call keeps the session that it began with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from erlport_bridge.term import decode
from tests.model_server import ModelServer
from tests.port_process import PortProcess

QA = "question -> answer"
IDLE_MS = 400
SLOW = "delay-1200"
EXAMPLES = [{"question": "a", "answer": "answer to a"}]
METRIC = {"check": "equals", "field": "answer", "input": "answer"}
COMPILE = {"optimizer": "dspy.BootstrapFewShot", "metric": METRIC}
# The pid <0.5.0> of a node without a name, as a BEAM encodes it.
PID = decode(b"\x83X" + b"w\x0dnonode@nohost" + bytes(3) + b"\x05" + bytes(8))
STREAM = (PID, 1)

#: The operations that use a session for as long as they ask a model: the arguments after session and program.
LONG: dict[str, tuple[Any, ...]] = {
    "execute_program": ({"question": "a"},),
    "execute_program_batch": ([{"question": "a"}, {"question": "b"}], {"max_concurrency": 1}),
    "evaluate_program": (EXAMPLES, {"metric": METRIC, "max_concurrency": 1}),
    "compile_program": (EXAMPLES * 2, COMPILE),
    "stream_program": ({"question": "a"}, {"buffer": 1_000}),
    "stream_evaluate": (EXAMPLES, {"metric": METRIC, "buffer": 1_000}),
    "stream_compile": (EXAMPLES * 2, {**COMPILE, "buffer": 1_000}),
}


@pytest.fixture(scope="module")
def port() -> Iterator[PortProcess]:
    with PortProcess(["--preload=dspy_bridge"], environment={"DSPEX_SESSION_IDLE_MS": str(IDLE_MS)}) as port:
        yield port


def begin(port: PortProcess, server: ModelServer, operation: str, session: str, **spec: Any) -> tuple[int, int, str]:
    """Begin an operation whose model is slower than sessions are idle; return its id, the next one's and the program.

    The model has got a request when this returns.
    """
    model = {"model": SLOW, "api_key": "k", "api_base": f"{server.url}/v1", "num_retries": 0}
    port.done("configure_lm", "openai", model, {"session_id": session})
    program = port.done("create_program", {"signature": QA, **spec}, {"session_id": session})["id"]
    first = STREAM if operation.startswith("stream") else ()
    begun = len(server.requests)
    call_id = port.send_call("dspy_bridge", operation, [*first, session, program, *LONG[operation]])
    server.wait_for_requests(begun + 1)
    return call_id, call_id + 1, program


def answers(port: PortProcess, *ids: int) -> dict[int, Any]:
    """Return the answers of calls, without the events of streams between them."""
    found: dict[int, Any] = {}
    while not found.keys() >= set(ids):
        message = port.receive()
        if message[0] == "r":
            found[message[1]] = message[2]
    return found


@pytest.mark.parametrize("operation", LONG)
def test_session_of_a_call_longer_than_the_limit_stays_open(
    port: PortProcess, model_server: ModelServer, operation: str
) -> None:
    """A compilation longer than the limit ended in `session_not_found`, after all its paid requests."""
    call_id, _, program = begin(port, model_server, operation, f"long-{operation}")
    status, result = answers(port, call_id)[call_id]
    assert status == "ok", result
    # Idle time counts from the end of the call.
    assert port.done("list_programs", f"long-{operation}")[0]["id"] == program


@pytest.mark.parametrize("operation", LONG)
def test_call_whose_session_is_closed_goes_on_and_loses_nothing(
    port: PortProcess, model_server: ModelServer, operation: str
) -> None:
    session = f"closed-{operation}"
    call_id, _, _ = begin(port, model_server, operation, session)
    closing = port.send_call("dspy_bridge", "close_session", [session])
    listing = port.send_call("dspy_bridge", "list_programs", [session])
    found = answers(port, call_id, closing, listing)
    assert found[closing][0] == "ok"
    # Closed for everyone else.
    assert found[listing][1][1]["kind"] == "session_not_found"
    status, result = found[call_id]
    assert status == "ok", result
    if operation.endswith("batch"):
        assert [item[0] for item in result] == ["ok", "ok"]
    elif operation.endswith(("evaluate", "evaluate_program")):
        assert (result["failed"], result["score"]) == (0, 100.0)
    elif "compile" in operation:
        compiled = result["compiled"]
        assert f'the new version is not stored: session "{session}" was closed meanwhile' in compiled["warnings"][-1]
        again = port.done("load_program", compiled["dump"])
        assert again["compiled"]["metric_calls"] == compiled["metric_calls"]
        assert "dump" not in again["compiled"]


def test_compilation_of_a_program_that_was_deleted_is_returned(port: PortProcess, model_server: ModelServer) -> None:
    call_id, _, program = begin(port, model_server, "compile_program", "deleted")
    deleting = port.send_call("dspy_bridge", "delete_program", ["deleted", program])
    found = answers(port, call_id, deleting)
    status, result = found[call_id]
    assert status == "ok", result
    assert "not stored: unknown program" in result["compiled"]["warnings"][-1]
    assert port.done("load_program", result["compiled"]["dump"])["signature"] == "question: str -> answer: str"


def test_compilation_that_could_not_be_stored_is_refused_before_it_costs_anything(model_server: ModelServer) -> None:
    with PortProcess(["--preload=dspy_bridge"], environment={"DSPEX_MAX_PROGRAMS": "1"}) as port:
        port.done("configure_lm", "openai", {"model": "echo", "api_key": "k", "api_base": f"{model_server.url}/v1"})
        program = port.done("create_program", QA)["id"]
        begun = len(model_server.requests)
        assert port.failed("compile_program", None, program, EXAMPLES * 2, COMPILE)["kind"] == "overloaded"
        assert len(model_server.requests) == begun
