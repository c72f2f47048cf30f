"""Fallback models, rate limits, cache hits and costs of language models."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deadlines import at_deadline
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = ("dspy.Predict", "question -> answer", {"question": "hi"})


def models_asked(server: ModelServer) -> list[str]:
    return [request.model for request in server.requests]


def test_fallback_model_answers_when_the_first_fails(shared_port: PortProcess, model_server: ModelServer) -> None:
    models = [openai(model_server, name) for name in ("status-503", "error-invalid_api_key", "good", "never")]
    meta = shared_port.done("execute_module", *QA, {"lm": models})["$meta"]
    assert meta["model"] == "openai/good"
    assert [(failed["model"], failed["kind"]) for failed in meta["failed_models"]] == [
        ("openai/status-503", "server"),
        ("openai/error-invalid_api_key", "auth"),
    ]
    assert meta["failed_models"][0]["retry_after"] == 1.0
    assert all("\n" not in failed["message"] for failed in meta["failed_models"])
    assert models_asked(model_server) == ["status-503", "error-invalid_api_key", "good"]


def test_error_is_the_last_models_when_all_fail(shared_port: PortProcess, model_server: ModelServer) -> None:
    models = [openai(model_server, "status-503"), openai(model_server, "status-429-7")]
    details = shared_port.failed("execute_module", *QA, {"lm": models})
    assert (details["kind"], details["retry_after"], details["model"]) == ("rate_limit", 7.0, "openai/status-429-7")


def test_invalid_request_is_not_sent_to_the_fallback_model(shared_port: PortProcess, model_server: ModelServer) -> None:
    models = [openai(model_server, "status-400"), openai(model_server, "good")]
    assert shared_port.failed("execute_module", *QA, {"lm": models})["kind"] == "provider"
    assert models_asked(model_server) == ["status-400"]


def test_model_with_fallbacks_is_configured_as_one(port: PortProcess, model_server: ModelServer) -> None:
    config = {**openai(model_server, "status-500"), "fallbacks": [openai(model_server, "good"), "embedded"]}
    described = port.done("configure_lm", config.pop("provider"), config)
    assert described["fallbacks"] == ["openai/good", "embedded/extractive"]
    # The settings of the call apply to the fallback model too.
    assert port.done("execute_module", *QA, {"temperature": 0.25})["$meta"]["model"] == "openai/good"
    assert [request.body["temperature"] for request in model_server.requests] == [0.25, 0.25]


def test_request_to_a_model_with_a_fallback_is_not_retried(shared_port: PortProcess, model_server: ModelServer) -> None:
    first = openai(model_server, "status-503")
    del first["num_retries"]
    shared_port.done("execute_module", *QA, {"lm": [first, "embedded"]})
    assert models_asked(model_server) == ["status-503"]


@pytest.mark.parametrize(
    ("lm", "path"),
    [
        ([], "opts.lm"),
        (["embedded", 7], "opts.lm[1]"),
        ({"provider": "embedded", "fallbacks": "x"}, "opts.lm.fallbacks"),
    ],
)
def test_wrong_fallback_is_reported_with_its_path(shared_port: PortProcess, lm: Any, path: str) -> None:
    details = shared_port.failed("execute_module", *QA, {"lm": lm})
    assert details["kind"] == "input"
    assert details["path"].startswith(path)


def test_cached_answer_is_found_with_the_same_key_and_address_only(
    port: PortProcess, model_server: ModelServer
) -> None:
    """DSPy's cache keys leave out key and address, so two tenants once shared answers."""
    lm = openai(model_server, "gpt-4o-mini", cache=True)
    first, second = (port.done("execute_module", *QA, {"lm": lm})["$meta"] for _ in range(2))
    assert (first["cache_hits"], second["cache_hits"]) == (0, 1)
    assert first["cost"] > 0
    assert (second["cost"], second["usage"]) == (0.0, {})
    others: list[dict[str, Any]] = [
        {"api_key": "sk-of-another-tenant"},
        {"api_base": f"{model_server.url}/other/v1"},
        {"cache": False},
    ]
    for other in others:
        assert port.done("execute_module", *QA, {"lm": {**lm, **other}})["$meta"]["cache_hits"] == 0
    assert len(model_server.requests) == 1 + len(others)


def test_requests_per_minute_end_with_the_deadline(shared_port: PortProcess, model_server: ModelServer) -> None:
    opts: dict[str, Any] = {"lm": openai(model_server, "limited", requests_per_minute=2), "timeout": 20_000}
    for _ in range(2):
        shared_port.done("execute_module", *QA, opts)
    details = at_deadline(
        50,
        lambda timeout_ms: shared_port.failed("execute_module", *QA, {**opts, "timeout": timeout_ms}),
        lambda details: details["stage"] == "rate_limit",
    )
    assert details["kind"] == "timeout"
    assert len(model_server.requests) == 2
    # Another key is another tenant, with its own limits.
    opts["lm"]["api_key"] = "sk-of-another-tenant"
    shared_port.done("execute_module", *QA, opts)


def test_requests_at_once_are_limited(shared_port: PortProcess, model_server: ModelServer) -> None:
    lm = openai(model_server, "delay-100", max_concurrent_requests=1)
    inputs = [{"question": str(number)} for number in range(3)]
    results = shared_port.done("execute_batch", "dspy.Predict", "question -> answer", inputs, {"lm": lm})
    assert len(results) == 3
    # Each request began when the one before it was answered.
    assert model_server.most_at_once == 1


def test_gateway_gets_its_headers_by_dspys_own_client(shared_port: PortProcess, model_server: ModelServer) -> None:
    lm = {
        "provider": "openai_compatible",
        "model": "m",
        "api_base": f"{model_server.url}/v1",
        "headers": {"X-Team": "blue-team-token"},
        "api_key": "sk-gateway-key",
    }
    shared_port.done("execute_module", *QA, {"lm": lm})
    headers = model_server.requests[0].headers
    assert (headers["x-team"], headers["authorization"]) == ("blue-team-token", "Bearer sk-gateway-key")
    assert headers["user-agent"].startswith("lm15")
