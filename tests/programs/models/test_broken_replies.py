"""Replies of status 200 that are no answers or end too early, on each wire, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA, streamed

WIRES: dict[str, dict[str, Any]] = {
    "chat": {"provider": "openai"},
    "gateway": {"provider": "openai_compatible", "headers": {"X-Team": "blue"}},
    "responses": {"provider": "openai", "model_type": "responses"},
    "anthropic": {"provider": "anthropic"},
    "gemini": {"provider": "gemini"},
    # By the SDK of OpenAI, and by LiteLLM's own client.
    "litellm": {"provider": "lm_studio"},
    "litellm_own": {"provider": "databricks"},
}
#: What a stream breaks off with -> whether pieces of the answer come before.
BROKEN_OFF = {"ended": True, "half": True, "begun": False, "hello": False, "empty": False}
NO_ANSWER = {
    "page": "text/html",
    "plain": "text/plain",
    "nodata": "its fields: none",
    "list": "application/json",
    "null": "application/json",
}
# The status that a provider names in a reply of status 200, and the kind of the error.
INBAND = {400: "provider", 401: "auth", 402: "billing", 429: "rate_limit", 502: "server", 504: "timeout", 529: "server"}
MAY_PASS = ("rate_limit", "server", "timeout")


def model(server: ModelServer, wire: str, name: str, **options: Any) -> dict[str, Any]:
    return openai(server, name, **WIRES[wire], **options)


def failed_stream(port: PortProcess, lm: Any) -> tuple[dict[str, Any], str]:
    (status, answer), text = streamed(port, lm)
    assert status == "error", answer
    return dict(answer[1]), text


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("how", "has_pieces"), BROKEN_OFF.items(), ids=BROKEN_OFF)
def test_stream_that_breaks_off_may_be_asked_for_again(
    shared_port: PortProcess, model_server: ModelServer, wire: str, how: str, has_pieces: bool
) -> None:
    """It was an internal error, after which no fallback model was asked."""
    details, text = failed_stream(shared_port, model(model_server, wire, f"broken-{how}"))
    assert (details["kind"], details["retryable"], details["traceback"]) == ("transport", True, [])
    assert "the stream (HTTP 200, text/event-stream)" in details["message"]
    assert text == ("answer to hi" if has_pieces else "")
    # What the reader has got cannot be taken back.
    models = [model(model_server, wire, f"broken-{how}"), model(model_server, wire, "good")]
    (status, _), text = streamed(shared_port, models)
    assert (status, text) == ("error" if has_pieces else "ok", "answer to hi")


@pytest.mark.parametrize("wire", WIRES)
def test_stream_that_breaks_off_before_its_first_piece_is_asked_for_again(
    shared_port: PortProcess, model_server: ModelServer, wire: str
) -> None:
    failed_stream(shared_port, model(model_server, wire, "broken-empty", num_retries=1))
    assert len(model_server.requests) == 2
    failed_stream(shared_port, model(model_server, wire, "broken-ended", num_retries=1))
    assert len(model_server.requests) == 3


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("how", ["half", "empty"])
def test_whole_reply_that_breaks_off_is_an_error_of_the_transport(
    shared_port: PortProcess, model_server: ModelServer, wire: str, how: str
) -> None:
    details = shared_port.failed("execute_module", *QA, {"lm": model(model_server, wire, f"broken-{how}")})
    assert (details["kind"], details["retryable"]) == ("transport", True)
    models = [model(model_server, wire, f"broken-{how}"), "embedded"]
    assert shared_port.done("execute_module", *QA, {"lm": models})["$meta"]["model"] == "embedded/extractive"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("how", "shown"), NO_ANSWER.items(), ids=NO_ANSWER)
def test_reply_that_is_no_answer_is_described(
    shared_port: PortProcess, model_server: ModelServer, wire: str, how: str, shown: str
) -> None:
    lm = model(model_server, wire, f"broken-{how}")
    in_pieces, text = failed_stream(shared_port, lm)
    for details in (shared_port.failed("execute_module", *QA, {"lm": lm}), in_pieces):
        assert (details["kind"], details["retryable"], details["status"]) == ("provider", False, 200)
        assert "HTTP 200" in details["message"]
        assert shown in details["message"]
    assert text == ""


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("how", ["whole", "typed"])
def test_answer_is_read_as_what_it_is(shared_port: PortProcess, model_server: ModelServer, wire: str, how: str) -> None:
    """A server may not stream at all, and a proxy may change the content type."""
    (status, prediction), text = streamed(shared_port, model(model_server, wire, f"broken-{how}"))
    assert (status, text) == ("ok", "answer to hi"), prediction
    assert prediction["answer"] == "answer to hi"
    (usage,) = prediction["$meta"]["usage"].values()
    assert sum(value for value in usage.values() if isinstance(value, int)) > 0


def test_whole_answer_to_a_stream_ends_at_the_stop_text(shared_port: PortProcess, model_server: ModelServer) -> None:
    """OpenAI's responses take no such text, so that DSPy's client cuts their answers, for which it asks for streams."""
    lm = model(model_server, "responses", "broken-whole", stop=[" to"])
    (status, prediction), text = streamed(shared_port, lm)
    assert (status, text) == ("ok", "answer"), prediction
    assert prediction["answer"] == shared_port.done("execute_module", *QA, {"lm": lm})["answer"] == "answer"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("code", "kind"), INBAND.items())
@pytest.mark.parametrize("late", ["", "-late"])
def test_error_in_a_reply_of_status_200_has_the_kind_of_its_code(
    shared_port: PortProcess, model_server: ModelServer, wire: str, code: int, kind: str, late: str
) -> None:
    name = f"inband-{code}{late}"
    in_pieces, text = failed_stream(shared_port, model(model_server, wire, name))
    for details in (shared_port.failed("execute_module", *QA, {"lm": model(model_server, wire, name)}), in_pieces):
        assert (details["kind"], details["retryable"]) == (kind, kind in MAY_PASS)
        assert "the provider is down" in details["message"]
        # Anthropic's errors name a type, which 402 and others share with no status.
        assert details["status"] == code or wire == "anthropic"
    assert text == ("answer to hi" if late else "")
    if kind == "server" and not late:
        models = [model(model_server, wire, name), model(model_server, wire, "good")]
        (status, _), text = streamed(shared_port, models)
        assert (status, text) == ("ok", "answer to hi")
        assert shared_port.done("execute_module", *QA, {"lm": models})["$meta"]["model"].endswith("/good")


@pytest.mark.parametrize("wire", WIRES)
def test_error_that_is_a_text_is_of_the_server(shared_port: PortProcess, model_server: ModelServer, wire: str) -> None:
    lm = model(model_server, wire, "broken-error")
    for details in (shared_port.failed("execute_module", *QA, {"lm": lm}), failed_stream(shared_port, lm)[0]):
        assert (details["kind"], details["status"]) == ("server", 200)
        assert "overloaded" in details["message"]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirection_names_its_target(
    shared_port: PortProcess, model_server: ModelServer, wire: str, status: int
) -> None:
    lm = model(model_server, wire, f"redirect-{status}")
    for details in (shared_port.failed("execute_module", *QA, {"lm": lm}), failed_stream(shared_port, lm)[0]):
        assert (details["kind"], details["status"]) == ("provider", status)
        assert f"redirects to http://elsewhere.test/v2/chat/completions (HTTP {status})" in details["message"]
        assert "redirect-secret" not in repr(details)
