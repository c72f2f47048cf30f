"""A call whose model fails until its deadline says what failed, and as soon as nothing else can come."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tests.deadlines import at_deadline
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA, streamed

# Long enough that the calls of this file end before, on a busy machine too; waiting for it would fail the test.
TIMEOUT_MS = 20_000


def refusing(**options: Any) -> dict[str, Any]:
    """Return a model at a port of loopback that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return {
        "provider": "openai",
        "model": "gone",
        "api_base": f"http://127.0.0.1:{port}/v1",
        "api_key": "key",
        "num_retries": 10,
        **options,
    }


@pytest.mark.parametrize(
    ("name", "kind", "retry_after"),
    [
        ("status-429-3600", "rate_limit", 3600.0),
        ("status-503-3600", "server", 3600.0),
    ],
)
def test_wait_beyond_the_deadline_is_not_begun(
    shared_port: PortProcess, model_server: ModelServer, name: str, kind: str, retry_after: float
) -> None:
    """The call ended at its deadline, as a timeout without a cause."""
    lm = openai(model_server, name, num_retries=10)
    started_at = time.monotonic()
    whole = shared_port.failed("execute_module", *QA, {"lm": lm, "timeout": TIMEOUT_MS})
    call_id = shared_port.send_call(
        "dspy_bridge", "execute_batch", ["dspy.Predict", QA[1], ["hi"], {"lm": lm, "timeout": TIMEOUT_MS}]
    )
    _, answered, (_, [(_, (_, of_batch))]) = shared_port.receive()
    assert answered == call_id
    (_, (_, in_pieces)), _ = streamed(shared_port, lm, timeout=TIMEOUT_MS)
    assert time.monotonic() - started_at < TIMEOUT_MS / 1000
    for details in (whole, of_batch, in_pieces):
        assert (details["kind"], details["retryable"], details["retry_after"]) == (kind, True, retry_after)
    assert len(model_server.requests) == 3


def test_fallback_model_is_asked_where_the_first_would_wait_too_long(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    models = [openai(model_server, "status-429-3600", num_retries=10), openai(model_server, "good")]
    meta = shared_port.done("execute_module", *QA, {"lm": models, "timeout": TIMEOUT_MS})["$meta"]
    assert meta["model"] == "openai/good"
    assert meta["failed_models"][0]["retry_after"] == 3600.0


@pytest.mark.parametrize("name", ["status-502", None], ids=["502", "refused"])
def test_error_that_repeats_until_the_deadline_is_the_error_of_the_call(
    shared_port: PortProcess, model_server: ModelServer, name: str | None
) -> None:
    """DSPy waits 1, 2, 4, 8 seconds: after the second wait at the latest the next would be too long."""
    lm = refusing() if name is None else openai(model_server, name, num_retries=10)
    details = at_deadline(
        3_500,
        lambda timeout_ms: shared_port.failed("execute_module", *QA, {"lm": lm, "timeout": timeout_ms}),
        lambda details: details["kind"] != "timeout",
    )
    assert details["kind"] == ("transport" if name is None else "server")
    assert (details["message"].count("127.0.0.1") > 0) is (name is None)


def test_timeout_names_the_error_before_it(shared_port: PortProcess, model_server: ModelServer) -> None:

    def attempt(timeout_ms: int) -> tuple[int, Any]:
        begun = len(model_server.requests)
        model_server.script(f"cause{timeout_ms}", {"status": 502}, {"delay_ms": 120_000})
        lm = openai(model_server, f"scripted:cause{timeout_ms}", num_retries=10)
        details = shared_port.failed("execute_module", *QA, {"lm": lm, "timeout": timeout_ms})
        return len(model_server.requests) - begun, details

    # The second request is made a second after the error.
    _, details = at_deadline(2_500, attempt, lambda made: made[0] == 2)
    assert (details["kind"], details["stage"]) == ("timeout", "model")
    model = model_server.requests[-1].model
    assert f"after an error of kind server: [openai/{model}] the test asked for status_502" in details["message"]
    assert (details["cause"]["kind"], details["cause"]["status"]) == ("server", 502)


def test_timeout_of_a_fallback_model_names_the_error_of_the_first(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    lm = [openai(model_server, "error-invalid_api_key"), openai(model_server, "delay-60000")]
    details = at_deadline(
        500,
        lambda timeout_ms: shared_port.failed("execute_module", *QA, {"lm": lm, "timeout": timeout_ms}),
        lambda _: any(request.model == "delay-60000" for request in model_server.requests),
    )
    assert (details["kind"], details["cause"]["kind"]) == ("timeout", "auth")
    assert "To fix" not in details["message"]


def test_timeout_without_an_error_before_it_names_none(shared_port: PortProcess, model_server: ModelServer) -> None:
    """An error that a later answer has made up for is no cause."""

    def attempt(timeout_ms: int) -> tuple[int, Any]:
        begun = len(model_server.requests)
        step = {"fields": {"next_thought": "t", "next_tool_name": "x"}}
        model_server.script(f"twice{timeout_ms}", {"status": 502}, step, {"delay_ms": 120_000})
        lm = openai(model_server, f"scripted:twice{timeout_ms}", num_retries=1)
        options = {"lm": lm, "timeout": timeout_ms, "tools": ["calculator"]}
        details = shared_port.failed("execute_module", "dspy.ReAct", QA[1], {"question": "hi"}, options)
        return len(model_server.requests) - begun, details

    _, details = at_deadline(2_500, attempt, lambda made: made[0] == 3)
    assert details["kind"] == "timeout"
    assert "cause" not in details


def test_compilation_names_the_error_before_its_timeout(shared_port: PortProcess, model_server: ModelServer) -> None:
    program = shared_port.done("create_program", QA[1])
    model_server.script("slow", {"status": 503}, {"delay_ms": 60_000})
    lm = openai(model_server, "scripted:slow", num_retries=5)
    examples = [{"question": "a", "answer": "b"}]
    options = {"optimizer": "dspy.BootstrapFewShot", "lm": lm, "timeout": 5_000}
    details = shared_port.failed("compile_program", None, program["id"], examples, options)
    assert (details["kind"], details["cause"]["kind"]) == ("timeout", "server")
