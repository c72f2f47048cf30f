"""Replies whose bytes are wrong or unusual: interim replies, last events without an end, other forms of errors."""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import Any

import dspy
import pytest

from erlport_bridge import dspy_patches
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA, streamed
from tests.raw_server import RawServer, answer, begun, chunk, completion, event, pieces, sent

STREAM = "text/event-stream"
# Waiting for it would fail the test.
TIMEOUT_MS = 20_000


def both(port: PortProcess, lm: Any, timeout: int = TIMEOUT_MS) -> list[tuple[str, Any]]:
    """Return the result of a whole call, and of a stream."""
    (status, result), _ = streamed(port, lm, timeout=timeout)
    return [port.operate("execute_module", *QA, {"lm": lm, "timeout": timeout}), (status, result)]


def errors(port: PortProcess, lm: Any) -> list[dict[str, Any]]:
    """Return the details of the errors of a whole call and of a stream."""
    results = both(port, lm)
    assert [status for status, _ in results] == ["error", "error"], results
    return [dict(error[1]) for _, error in results]


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints\r\nlink: </x>; rel=preload"])
def test_interim_reply_is_not_the_answer(shared_port: PortProcess, interim: str) -> None:
    """It ended the call, and the answer that followed was given to the next call on the connection."""
    late = threading.Event()

    def reply(number: int, body: dict[str, Any]) -> Any:
        first = f"HTTP/1.1 {interim}\r\n\r\n".encode()
        text = f"[[ ## answer ## ]]\nanswer {number}\n\n[[ ## completed ## ]]"
        return [first * 3, lambda: late.wait(0.1), answer(body, text)]

    with RawServer(reply) as server:
        for number in range(2):
            prediction = shared_port.done("execute_module", *QA, {"lm": server.model(), "timeout": TIMEOUT_MS})
            assert prediction["answer"] == f"answer {number}"
        (status, prediction), text = streamed(shared_port, server.model(), timeout=TIMEOUT_MS)
        assert (status, text) == ("ok", "answer 2"), prediction


@pytest.mark.parametrize("at_once", [True, False])
def test_interim_reply_is_not_the_answer_for_a_thread(at_once: bool) -> None:
    """Threads ask by another client."""
    answers = itertools.count()
    late = threading.Event()

    def reply(_: int, body: dict[str, Any]) -> Any:
        text = answer(body, f"answer {next(answers)}")
        first = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 2
        return [first + text] if at_once else [first, lambda: late.wait(0.05), text]

    dspy_patches.install()
    with RawServer(reply) as server:
        lm = dspy.LM("openai/raw", api_base=f"{server.url}/v1", api_key="sk-loopback-key", cache=False)
        assert [lm(str(number))[0] for number in range(2)] == ["answer 0", "answer 1"]


def test_interim_replies_without_end_are_an_error(shared_port: PortProcess) -> None:
    with RawServer(lambda *_: [b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000, None]) as server:
        for details in errors(shared_port, server.model()):
            assert (details["kind"], details["retryable"]) == ("transport", True)
            assert "interim" in details["message"]


def test_reply_that_nobody_asked_for_is_not_the_next_answer(shared_port: PortProcess) -> None:
    """It waited in the buffer of the connection, which was taken for the next call."""
    has_come = threading.Event()

    def reply(number: int, body: dict[str, Any]) -> Any:
        stray = answer(body, "[[ ## answer ## ]]\nstray\n\n[[ ## completed ## ]]")
        return [answer(body), lambda: has_come.wait(0.05), stray]

    with RawServer(reply) as server:
        for _ in range(3):
            prediction = shared_port.done("execute_module", *QA, {"lm": server.model(), "timeout": TIMEOUT_MS})
            assert prediction["answer"] == "Lisbon"
            time.sleep(0.2)


@pytest.mark.parametrize("ends", ["open", "pings"])
def test_stream_ends_with_its_last_event(shared_port: PortProcess, ends: str) -> None:
    """Gateways keep the connection open after it; the whole answer was there, and the call ended in a timeout."""

    def reply(_: int, body: dict[str, Any]) -> Any:
        yield begun(STREAM, transfer_encoding="chunked") + chunk(pieces("[[ ## answer ## ]]\n", "Lisbon"))
        while not server.ended.wait(0.05):
            if ends == "pings":
                yield chunk(b": ping\n\n")

    with RawServer(reply) as server:
        (status, prediction), text = streamed(shared_port, server.model(), timeout=TIMEOUT_MS)
        assert (status, text) == ("ok", "Lisbon"), prediction


@pytest.mark.parametrize("ends", ["open", "pings", "usage"])
def test_chat_stream_without_its_last_event_ends_after_the_answer(shared_port: PortProcess, ends: str) -> None:
    """Some gateways send no `[DONE]` and keep the connection open: the call with the whole answer timed out."""

    def reply(_: int, body: dict[str, Any]) -> Any:
        yield begun(STREAM, transfer_encoding="chunked") + chunk(pieces("[[ ## answer ## ]]\n", "Lisbon", done=False))
        if ends == "usage":
            server.ended.wait(0.3)
            yield chunk(event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}))
        while not server.ended.wait(0.05):
            if ends == "pings":
                yield chunk(b": ping\n\n")

    with RawServer(reply) as server:
        (status, prediction), text = streamed(shared_port, server.model(), timeout=TIMEOUT_MS)
        assert (status, text) == ("ok", "Lisbon"), prediction
        if ends == "usage":
            (usage,) = prediction["$meta"]["usage"].values()
            assert usage["total_tokens"] == 7


def test_stream_with_a_reason_in_each_event_ends_with_its_last_one(shared_port: PortProcess) -> None:
    def reply(_: int, body: dict[str, Any]) -> Any:
        yield begun(STREAM, transfer_encoding="chunked")
        for text in ("[[ ## answer ## ]]\n", "Lis", "bon"):
            delta = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
            yield chunk(event({"choices": [delta]}))
            # The second one shows that the first reason was none.
            yield lambda text=text: server.ended.wait(3.0 if text == "Lis" else 0.1)
        yield chunk(event(b"[DONE]"))

    with RawServer(reply) as server:
        (status, prediction), text = streamed(shared_port, server.model(), timeout=TIMEOUT_MS)
        assert (status, text) == ("ok", "Lisbon"), prediction


def test_stream_may_break_after_its_last_event(shared_port: PortProcess) -> None:
    def reply(*_: Any) -> Any:
        return [begun(STREAM, transfer_encoding="chunked") + chunk(pieces("[[ ## answer ## ]]\n", "Lisbon")), None]

    with RawServer(reply) as server:
        (status, prediction), text = streamed(shared_port, server.model(), timeout=TIMEOUT_MS)
        assert (status, text) == ("ok", "Lisbon"), prediction


def test_connection_of_a_stream_is_used_again(shared_port: PortProcess) -> None:
    connections = set()

    def reply(_: int, body: dict[str, Any]) -> Any:
        connections.add(threading.get_ident())
        return [begun(STREAM, transfer_encoding="chunked") + chunk(pieces("[[ ## answer ## ]]\nLisbon")), chunk(b"")]

    with RawServer(reply) as server:
        for _ in range(3):
            assert streamed(shared_port, server.model(), timeout=TIMEOUT_MS)[1] == "Lisbon"
    assert len(connections) == 1


def test_stream_may_begin_with_a_byte_order_mark(shared_port: PortProcess) -> None:
    with RawServer(lambda *_: [sent(b"\xef\xbb\xbf" + pieces("[[ ## answer ## ]]\nLisbon"), STREAM)]) as server:
        assert streamed(shared_port, server.model())[1] == "Lisbon"


@pytest.mark.parametrize("size", [70_000, 1_500_000])
def test_event_of_a_stream_may_be_as_large_as_a_reply(shared_port: PortProcess, size: int) -> None:
    """The client refused lines beyond 64 KiB: the last event of OpenAI's responses has the whole answer."""
    text = "[[ ## answer ## ]]\n" + "a" * size
    with RawServer(lambda *_: [sent(pieces(text), STREAM)]) as server:
        (status, prediction), text = streamed(shared_port, server.model(), timeout=TIMEOUT_MS)
        assert (status, len(text)) == ("ok", size), prediction


#: What stands in a reply of status 200 -> the kind of the error, its status, and a part of its message.
OTHER_ERRORS = {
    "vllm": (
        {"object": "error", "message": "too long a prompt", "type": "BadRequestError", "param": None, "code": 400},
        ("provider", 400, "too long a prompt"),
    ),
    "vllm_busy": ({"object": "error", "message": "busy", "type": "Busy", "code": 503}, ("server", 503, "busy")),
    "responses": ({"type": "error", "code": "server_error", "message": "a fault"}, ("server", 500, "a fault")),
    "responses_busy": (
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow"},
        ("rate_limit", 429, "slow"),
    ),
    "responses_other": ({"type": "error", "code": None, "message": "a fault"}, ("server", 200, "a fault")),
    "fastapi": ({"detail": "Model is loading"}, ("provider", 200, "Model is loading")),
    "fastapi_list": ({"detail": [{"loc": ["body"], "msg": "field required"}]}, ("provider", 200, "field required")),
    "cloudflare": (
        {"success": False, "errors": [{"code": 7009, "message": "no upstream"}], "result": None, "messages": []},
        ("provider", 200, "no upstream"),
    ),
    "azure": ({"statusCode": 429, "message": "Rate limit is exceeded"}, ("rate_limit", 429, "Rate limit is")),
    "gateway": ({"message": "Internal server error"}, ("provider", 200, "Internal server error")),
    "google": (
        [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}],
        ("rate_limit", 429, "Quota"),
    ),
    "google_name": ({"error": {"message": "Quota", "status": "RESOURCE_EXHAUSTED"}}, ("rate_limit", 429, "Quota")),
    "status_code": ({"error": {"status_code": 429, "message": "slow"}}, ("rate_limit", 429, "slow")),
    "number": ({"error": 429}, ("rate_limit", 429, "429")),
    "nested": ({"error": {"error": {"message": "inner", "code": 429}}}, ("rate_limit", 429, "inner")),
    "plain_code": ({"message": "boom", "code": 503}, ("server", 503, "boom")),
    "minimax": (
        {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None},
        ("provider", 200, "rate limit"),
    ),
}


@pytest.mark.parametrize(("data", "expected"), OTHER_ERRORS.values(), ids=OTHER_ERRORS)
def test_error_within_a_reply_is_read_in_other_forms(
    shared_port: PortProcess, data: Any, expected: tuple[str, int, str]
) -> None:
    """The message was lost, and in a stream it was an answer that broke off."""

    def reply(_: int, body: dict[str, Any]) -> Any:
        return [sent(event(data), STREAM) if body.get("stream") else sent(json.dumps(data).encode())]

    kind, status, text = expected
    with RawServer(reply) as server:
        for details in errors(shared_port, server.model()):
            assert (details["kind"], details["status"]) == (kind, status), details
            assert text in details["message"]


def test_answer_may_follow_what_a_gateway_says_of_its_work(shared_port: PortProcess) -> None:
    said = event({"status": "queued", "message": "place 3"})
    with RawServer(lambda *_: [sent(said * 2 + pieces("[[ ## answer ## ]]\nLisbon") + said, STREAM)]) as server:
        assert streamed(shared_port, server.model())[1] == "Lisbon"


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b'{"message": "boom", "code": 503}', "server", "boom"),
        (b"boom", "server", "boom"),
        (b'"boom"', "server", "boom"),
    ],
)
def test_event_with_the_name_error_is_one(shared_port: PortProcess, data: bytes, kind: str, text: str) -> None:
    with RawServer(lambda *_: [sent(b"event: error\n" + event(data), STREAM)]) as server:
        (status, error), _ = streamed(shared_port, server.model())
        assert status == "error", error
        assert (error[1]["kind"], text in error[1]["message"]) == (kind, True), error


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail": "No such route"}',
        b"[1, 2]",
        b"null",
        b'{"error": null, "why": "x"}',
        b'{"error": {"message": ""}}',
        b"{}",
    ],
)
@pytest.mark.parametrize("status", [422, 500, 600])
def test_error_without_a_message_shows_its_status_and_its_body(
    shared_port: PortProcess, body: bytes, status: int
) -> None:
    """The message was empty, or `None`."""
    with RawServer(lambda *_: [sent(body, status=f"{status} Odd")]) as server:
        for details in errors(shared_port, server.model()):
            assert details["status"] == status
            assert f"HTTP {status}" in details["message"]
            assert body.decode() in details["message"]


@pytest.mark.parametrize("wait", ["Wed, 21 Oct 2099 07:28:00 GMT", "90000"])
def test_wait_of_more_than_a_day_is_not_begun_without_a_deadline(shared_port: PortProcess, wait: str) -> None:
    """The call waited for 70 years."""
    reply = sent(b'{"error": {"message": "slow down"}}', status="429 Too Many Requests", retry_after=wait)
    with RawServer(lambda *_: [reply]) as server:
        details = shared_port.failed("execute_module", *QA, {"lm": server.model(num_retries=2)})
        assert (details["kind"], details["retry_after"] >= 90_000) == ("rate_limit", True)


def test_redirection_to_what_is_no_address_is_one(shared_port: PortProcess) -> None:
    with RawServer(lambda *_: [sent(b"", status="302 Found", location="http://[bad")]) as server:
        for details in errors(shared_port, server.model()):
            assert (details["kind"], details["status"]) == ("provider", 302)
            assert "redirects to" in details["message"]


def test_halves_of_a_character_in_two_pieces_are_one(shared_port: PortProcess) -> None:
    """Servers that count in UTF-16 cut a text between them."""
    body = sent(pieces("[[ ## answer ## ]]\nfine \ud83d", "\ude00 day"), STREAM)
    with RawServer(lambda *_: [body]) as server:
        (status, prediction), text = streamed(shared_port, server.model())
        assert (status, text) == ("ok", "fine \U0001f600 day"), prediction
        assert prediction["answer"] == text


def test_half_of_a_character_in_a_stream_is_an_answer_that_cannot_be_read(shared_port: PortProcess) -> None:
    """Whole, it is of kind parse."""

    def reply(_: int, body: dict[str, Any]) -> Any:
        return [answer(body, "[[ ## answer ## ]]\nLisb\ud800a\n\n[[ ## completed ## ]]")]

    with RawServer(reply) as server:
        for details in errors(shared_port, server.model()):
            assert (details["kind"], details["retryable"]) == ("parse", True), details


def test_call_without_a_name_is_no_internal_error(shared_port: PortProcess) -> None:
    calls = [None, {"function": None}]
    choice = {"index": 0, "message": {"tool_calls": calls}, "delta": {"tool_calls": calls}, "finish_reason": "stop"}

    def reply(_: int, body: dict[str, Any]) -> Any:
        data = {"choices": [choice]}
        return [sent(event(data), STREAM) if body.get("stream") else sent(json.dumps(data).encode())]

    with RawServer(reply) as server:
        assert [details["kind"] for details in errors(shared_port, server.model())] == ["provider", "provider"]


def test_whole_reply_has_the_form_of_a_stream_only_if_it_was_asked_for(shared_port: PortProcess) -> None:
    with RawServer(lambda *_: [sent(completion())]) as server:
        assert [result["answer"] for _, result in both(shared_port, server.model())] == ["Lisbon", "Lisbon"]
