"""Test the language model server of the tests, with real DSPy as its client."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from tests.model_server import ModelServer

OUTPUTS = {"answer": str, "n": int, "choice": Literal["a, b", "c"], "items": list[str]}


def ask(server: ModelServer, model: str, *, provider: str = "openai", outputs: dict[str, Any] | None = None) -> Any:
    lm = dspy.LM(f"{provider}/{model}", api_base=f"{server.url}/v1", api_key="key", cache=False, num_retries=0)
    fields: dict[str, Any] = {"question": (str, dspy.InputField())}
    fields |= {name: (kind, dspy.OutputField()) for name, kind in (outputs or {"answer": str}).items()}
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return dspy.Predict(dspy.Signature(fields, "Answer."))(question="why?")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_every_output_field_is_answered(model_server: ModelServer, provider: str) -> None:
    prediction = ask(model_server, "any", provider=provider, outputs=OUTPUTS)
    assert dict(prediction.items()) == {
        "answer": "answer to why?",
        "n": 42,
        "choice": "a, b",
        "items": ["answer to why?"],
    }
    assert ask(model_server, "echo", provider=provider).answer == "why?"


def test_scripted_replies_come_in_their_order(model_server: ModelServer) -> None:
    model_server.script("s", {"fields": {"answer": "one"}}, {"content": "[[ ## answer ## ]]\ntwo"})
    assert [ask(model_server, "scripted:s").answer for _ in range(2)] == ["one", "two"]
    with pytest.raises(dspy.LMServerError):
        ask(model_server, "scripted:s")


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("status-401", dspy.LMAuthError),
        ("status-402", dspy.LMBillingError),
        ("status-404", dspy.LMInvalidRequestError),
        ("status-408", dspy.LMTimeoutError),
        ("status-500", dspy.LMServerError),
        ("error-context_length_exceeded", dspy.ContextWindowExceededError),
        ("error-model_not_found", dspy.LMUnsupportedModelError),
        ("error-insufficient_quota", dspy.LMBillingError),
        ("malformed", dspy.LMProviderError),
        ("closed", dspy.LMTransportError),
        ("cut", dspy.LMTransportError),
        ("garbage", dspy.utils.exceptions.AdapterParseError),
    ],
)
def test_failure_is_what_dspy_takes_it_for(model_server: ModelServer, model: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(model_server, model)


def test_rate_limit_says_when_to_come_back(model_server: ModelServer) -> None:
    with pytest.raises(dspy.LMRateLimitError) as caught:
        ask(model_server, "status-429-7")
    assert caught.value.retry_after == 7


def test_request_is_recorded(model_server: ModelServer) -> None:
    ask(model_server, "delay-50")
    (request,) = model_server.wait_for_requests(1)
    assert request.model == "delay-50"
    assert request.headers["authorization"] == "Bearer key"
    assert not request.disconnected


def test_client_that_leaves_during_a_delay_is_noticed(model_server: ModelServer) -> None:
    body = json.dumps({"model": "delay-60000", "messages": []}).encode()
    leaving = threading.Thread(target=_post_and_leave, args=(model_server.url, body))
    leaving.start()
    (request,) = model_server.wait_for_requests(1)
    assert request.done.wait(5)
    leaving.join()
    assert request.disconnected


def _post_and_leave(url: str, body: bytes) -> None:
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{url}/v1/chat/completions", data=body, timeout=0.3)  # noqa: S310 - loopback


def test_server_closes_while_a_request_waits() -> None:
    with ModelServer() as server:
        asking = threading.Thread(target=_expect_transport_error, args=(server,))
        asking.start()
        server.wait_for_requests(1)
        started_at = time.monotonic()
    assert time.monotonic() - started_at < 20
    asking.join()


def _expect_transport_error(server: ModelServer) -> None:
    with pytest.raises(dspy.LMTransportError):
        ask(server, "delay-60000")


def test_process_serves_until_its_stdin_is_closed() -> None:
    script = Path(__file__).with_name("model_server")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        process.stdin.write(json.dumps({"name": "x", "replies": [{"content": "hello"}]}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ok\n"
        body = json.dumps({"model": "scripted:x", "messages": [{"role": "user", "content": "hi"}]}).encode()
        with urllib.request.urlopen(f"{url}/v1/chat/completions", data=body, timeout=10) as answer:  # noqa: S310
            assert json.load(answer)["choices"][0]["message"]["content"] == "hello"
        with urllib.request.urlopen(f"{url}/requests", timeout=10) as received:  # noqa: S310 - loopback
            assert json.load(received)["requests"][0]["body"]["model"] == "scripted:x"
        process.stdin.close()
        assert process.wait(5) == 0
