"""Replies in forms that only some servers have are read as if they were usual."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erlport_bridge.programs.models.reply_forms import usual
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA, streamed
from tests.raw_server import RawServer, completion, event, sent

STREAM = "text/event-stream"
HEAD = "[[ ## answer ## ]]\n"
TEXT = {"type": "text", "text": "Lisbon"}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "let me "}, {"type": "text", "text": "see"}]}


def delta_of(data: Any) -> Any:
    return json.loads(usual(json.dumps(data).encode(), is_event=True))["choices"][0]["delta"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([TEXT], {"content": "Lisbon"}),
        ([TEXT, TEXT], {"content": "LisbonLisbon"}),
        (TEXT, {"content": "Lisbon"}),
        (["Lis", "bon"], {"content": "Lisbon"}),
        ([THINKING], {"content": "", "reasoning_content": "let me see"}),
        ([THINKING, TEXT], {"content": "Lisbon", "reasoning_content": "let me see"}),
        ([{"type": "thinking", "thinking": "hm"}], {"content": "", "reasoning_content": "hm"}),
        ([{"type": "reasoning", "text": "hm"}, TEXT], {"content": "Lisbon", "reasoning_content": "hm"}),
        ([{"type": "reference", "reference_ids": [1]}, TEXT], {"content": "Lisbon"}),
        ([{"type": "image_url", "image_url": {"url": "x"}}, None, 7], {"content": ""}),
        ([], {"content": ""}),
    ],
)
def test_parts_of_a_piece_are_its_text_and_its_reasoning(content: Any, expected: dict[str, Any]) -> None:
    assert delta_of({"choices": [{"delta": {"content": content}}]}) == expected


def test_arguments_of_a_call_are_text() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": {"a": [1, "b"]}}}
    (read,) = delta_of({"choices": [{"delta": {"tool_calls": [call]}}]})["tool_calls"]
    assert json.loads(read["function"]["arguments"]) == {"a": [1, "b"]}


def test_a_message_in_a_stream_is_a_piece() -> None:
    assert delta_of({"choices": [{"message": {"content": [TEXT]}, "finish_reason": "stop"}]}) == {"content": "Lisbon"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt_tokens": "12", "completion_tokens": 3}, {"prompt_tokens": 12, "completion_tokens": 3}),
        ({"prompt_tokens": 12.0, "total_tokens": "1.5"}, {"prompt_tokens": 12}),
        ({"prompt_tokens": True, "total_tokens": -1, "cost": "0.1"}, {"cost": "0.1"}),
        (
            {"completion_tokens_details": {"reasoning_tokens": "7"}},
            {"completion_tokens_details": {"reasoning_tokens": 7}},
        ),
        ({"prompt_tokens": ["12"], "prompt_tokens_details": None}, {"prompt_tokens_details": None}),
    ],
)
@pytest.mark.parametrize("holder", [None, "message", "response"])
def test_counts_are_integers_or_left_out(given: Any, expected: Any, holder: str | None) -> None:
    data = {"usage": given} if holder is None else {holder: {"usage": given}}
    read = json.loads(usual(json.dumps(data).encode(), is_event=True))
    assert (read if holder is None else read[holder])["usage"] == expected


def test_counts_of_gemini_are_integers() -> None:
    data = {"candidates": [], "usageMetadata": {"promptTokenCount": "3", "totalTokenCount": "x"}}
    read = json.loads(usual(json.dumps(data).encode(), is_event=False))
    assert read["usageMetadata"] == {"promptTokenCount": 3}


@pytest.mark.parametrize(
    "text",
    [
        completion("a"),
        completion('{"max_tokens": "12", "content": [1], "usage": "x", "arguments": {}}'),
        json.dumps({"type": "message", "content": [TEXT], "usage": {"input_tokens": 3}}).encode(),
        json.dumps({"choices": [{"delta": {"content": "a"}}], "usage": None}).encode(),
        b"[DONE]",
        b"",
        b'{"choices": [{"delta": {"content": [',
        b'["choices", {"content": [1]}]',
    ],
)
@pytest.mark.parametrize("is_event", [True, False])
def test_what_is_usual_or_cannot_be_read_is_unchanged(text: bytes, is_event: bool) -> None:
    if b'"message"' in text and is_event:
        return
    assert usual(text, is_event=is_event) is text or json.loads(text) == json.loads(usual(text, is_event=is_event))


def reply_of(content: Any, usage: Any) -> Any:
    """Return what answers with this content, whole or as the middle of a stream."""

    def reply(_: int, body: dict[str, Any]) -> list[bytes]:
        if body.get("stream"):
            piece = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}
            last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
            return [sent(event(piece) + event(last) + event(b"[DONE]"), STREAM)]
        data = json.loads(completion())
        data["choices"][0]["message"]["content"], data["usage"] = content, usage
        return [sent(json.dumps(data).encode())]

    return reply


def test_parts_and_counted_text_are_an_answer(shared_port: PortProcess) -> None:
    """A stream of parts was an empty answer, and a count that is text an error of the whole answer."""
    content = [THINKING, {"type": "text", "text": HEAD}, TEXT]
    usage = {"prompt_tokens": "3", "completion_tokens": "4", "total_tokens": "7"}
    with RawServer(reply_of(content, usage)) as server:
        (status, prediction), text = streamed(shared_port, server.model())
        assert (status, text) == ("ok", "Lisbon"), prediction
        whole = shared_port.done("execute_module", *QA, {"lm": server.model()})
        for found in (prediction, whole):
            assert found["answer"] == "Lisbon"
            (used,) = found["$meta"]["usage"].values()
            assert (used["prompt_tokens"], used["completion_tokens"]) == (3, 4)


def test_a_count_that_is_no_number_is_not_known(shared_port: PortProcess) -> None:
    with RawServer(reply_of(HEAD + "Lisbon", {"prompt_tokens": "many", "completion_tokens": 4})) as server:
        assert shared_port.done("execute_module", *QA, {"lm": server.model()})["answer"] == "Lisbon"
