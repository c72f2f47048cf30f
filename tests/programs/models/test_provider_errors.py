"""Answers and errors of providers over HTTP, on each wire, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.execution.test_streaming import PID

QA = ("dspy.Predict", "question -> answer", {"question": "hi"})

WIRES: dict[str, dict[str, Any]] = {
    "chat": {"provider": "openai"},
    "responses": {"provider": "openai", "model_type": "responses"},
    "anthropic": {"provider": "anthropic"},
}
# The behaviour of the server, the kind of the error, whether it is retryable, the seconds to wait.
ERRORS = [
    ("status-400", "provider", False, None),
    ("status-401", "auth", False, None),
    ("status-402", "billing", False, None),
    ("status-403", "auth", False, None),
    ("status-404", "provider", False, None),
    ("status-408", "timeout", True, None),
    ("status-413", "provider", False, None),
    ("status-422", "provider", False, None),
    ("status-429-7", "rate_limit", True, 7.0),
    ("status-500", "server", True, None),
    ("status-502", "server", True, None),
    ("status-503-2", "server", True, 2.0),
    ("status-504", "timeout", True, None),
    ("status-529", "server", True, None),
    ("closed", "transport", True, None),
]


def model(server: ModelServer, wire: str, name: str) -> dict[str, Any]:
    return openai(server, name, **WIRES[wire])


def streamed(port: PortProcess, lm: Any, **options: Any) -> tuple[Any, str]:
    """Return the result of a stream, and the text of its pieces."""
    opts = {"lm": lm, "buffer": 10_000, **options}
    call_id = port.send_call("dspy_bridge", "stream_module", [PID, "s", *QA, opts])
    text = ""
    while True:
        match port.receive():
            case ("M", _, ("dspex_stream", "s", event)):
                text += event.get("text", "")
            case ("r", answered, result):
                assert answered == call_id
                return result, text


@pytest.mark.parametrize("wire", WIRES)
def test_answer_comes_whole_and_in_pieces(shared_port: PortProcess, model_server: ModelServer, wire: str) -> None:
    lm = model(model_server, wire, "answer")
    whole = shared_port.done("execute_module", *QA, {"lm": lm})
    (status, prediction), text = streamed(shared_port, lm)
    assert status == "ok"
    assert whole["answer"] == prediction["answer"] == text == "answer to hi"
    (usage,) = whole["$meta"]["usage"].values()
    assert usage["total_tokens"] > 0
    assert [bool(request.body.get("stream")) for request in model_server.requests] == [False, True]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("name", "kind", "is_retryable", "retry_after"), ERRORS, ids=[row[0] for row in ERRORS])
def test_error_of_the_provider_has_a_kind(
    shared_port: PortProcess,
    model_server: ModelServer,
    wire: str,
    name: str,
    kind: str,
    is_retryable: bool,
    retry_after: float | None,
) -> None:
    lm = model(model_server, wire, name)
    whole = shared_port.failed("execute_module", *QA, {"lm": lm})
    (status, (_, in_pieces)), text = streamed(shared_port, lm)
    assert (status, text) == ("error", "")
    for details in (whole, in_pieces):
        assert (details["kind"], details["retryable"], details.get("retry_after")) == (kind, is_retryable, retry_after)
        # DSPy's advice names DSPy's own classes, and must not be in the message.
        assert "To fix" not in details["message"]
        if name.startswith("status"):
            assert details["status"] == int(name.split("-")[1])
    assert len(model_server.requests) == 2


@pytest.mark.parametrize("provider", ["embedded", "openai"])
def test_setting_that_no_request_can_hold_is_no_internal_error(
    shared_port: PortProcess, model_server: ModelServer, provider: str
) -> None:
    lm = "embedded" if provider == "embedded" else openai(model_server, "answer")
    details = shared_port.failed("execute_module", *QA, {"lm": lm, "reasoning_effort": "enormous"})
    assert details["kind"] in ("input", "provider")
    assert "unsupported reasoning effort: enormous" in details["message"]
