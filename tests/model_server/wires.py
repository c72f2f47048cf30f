"""Describe how each provider writes an answer: whole, as the events of a stream, and as an error."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

_ANTHROPIC_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Wire(ABC):
    """One provider's API.

    Attributes:
        ends_with: What follows the last event of a stream.
    """

    ends_with = b""

    @abstractmethod
    def body(self, model: str, content: str, tokens: tuple[int, int]) -> dict[str, Any]:
        """Return a whole answer; ``tokens`` are those of the prompt and of the answer."""

    @abstractmethod
    def with_calls(self, body: dict[str, Any], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the answer with tool calls in place of its text."""

    def call_events(self, body: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the events of tool calls, in place of those of the text."""
        raise NotImplementedError

    @abstractmethod
    def piece(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Return the event of one piece of the text."""

    @abstractmethod
    def around(self, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the events before the pieces, and the events after them."""

    def error(self, status: int, code: Any, message: str) -> dict[str, Any]:
        """Return the body of an error."""
        kind = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def error_event(self, status: int, message: str) -> dict[str, Any]:
        """Return the event of a stream that fails with the status of an HTTP error."""
        return {"error": {"code": status, "message": message}}


class _ChatCompletions(Wire):
    """OpenAI's chat completions, which most servers have."""

    ends_with = b"data: [DONE]\n\n"

    def body(self, model: str, content: str, tokens: tuple[int, int]) -> dict[str, Any]:
        return {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
        }

    def with_calls(self, body: dict[str, Any], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        called = [{"id": id_, "type": "function", "function": call} for id_, call in _called(calls)]
        message = {"role": "assistant", "content": None, "tool_calls": called}
        return {**body, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    def call_events(self, body: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        deltas = []
        for index, (id_, call) in enumerate(_called(calls)):
            begun = {"index": index, "id": id_, "type": "function", "function": {"name": call["name"], "arguments": ""}}
            rest = [{"index": index, "function": {"arguments": character}} for character in call["arguments"]]
            deltas += [{"tool_calls": [part]} for part in (begun, *rest)]
        return [{**_chunk(body), "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]

    def piece(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        return {**_chunk(body), "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}

    def around(self, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        stop = {"index": 0, "delta": {}, "finish_reason": body["choices"][0]["finish_reason"]}
        return [], [{**_chunk(body), "choices": [stop]}, {**_chunk(body), "choices": [], "usage": body["usage"]}]


class _Responses(Wire):
    """OpenAI's responses."""

    ends_with = b"data: [DONE]\n\n"

    def body(self, model: str, content: str, tokens: tuple[int, int]) -> dict[str, Any]:
        text = {"type": "output_text", "text": content, "annotations": []}
        message = {"type": "message", "id": "msg_test", "role": "assistant", "status": "completed"}
        return {
            "id": "resp_test",
            "object": "response",
            "created_at": 0,
            "status": "completed",
            "model": model,
            "output": [{**message, "content": [text]}],
            "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)},
        }

    def with_calls(self, body: dict[str, Any], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**body, "output": [{"type": "function_call", "call_id": id_, **call} for id_, call in _called(calls)]}

    def piece(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        place = {"item_id": "msg_test", "output_index": 0, "content_index": 0}
        return {"type": "response.output_text.delta", **place, "delta": text}

    def around(self, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        begun = {**body, "status": "in_progress", "output": [], "usage": None}
        return [{"type": "response.created", "response": begun}], [{"type": "response.completed", "response": body}]

    def error_event(self, status: int, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"code": status, "message": message}}


class _Messages(Wire):
    """Anthropic's messages."""

    def body(self, model: str, content: str, tokens: tuple[int, int]) -> dict[str, Any]:
        return {
            "id": "msg_test",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": content}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
        }

    def with_calls(self, body: dict[str, Any], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        used = [
            {"type": "tool_use", "id": f"call_{index}", "name": call["name"], "input": call["args"]}
            for index, call in enumerate(calls)
        ]
        return {**body, "content": used, "stop_reason": "tool_use"}

    def call_events(self, body: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        for index, (id_, call) in enumerate(_called(calls), 1):
            block = {"type": "tool_use", "id": id_, "name": call["name"], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": call["arguments"]}
            events.append({"type": "content_block_start", "index": index, "content_block": block})
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
            events.append({"type": "content_block_stop", "index": index})
        return events

    def piece(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    def around(self, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        usage = body["usage"]
        message = {**body, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        return [{"type": "message_start", "message": message}, block], [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": {"output_tokens": usage["output_tokens"]}},
            {"type": "message_stop"},
        ]

    def error(self, status: int, code: Any, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message}}

    def error_event(self, status: int, message: str) -> dict[str, Any]:
        return self.error(status, None, message)


class _GenerateContent(Wire):
    """Gemini's generateContent."""

    def body(self, model: str, content: str, tokens: tuple[int, int]) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": [{"text": content}]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": tokens[0], "candidatesTokenCount": tokens[1], "totalTokenCount": sum(tokens)}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "test"}

    def with_calls(self, body: dict[str, Any], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        parts = [{"functionCall": {"name": call["name"], "args": call["args"]}} for call in calls]
        return {**body, "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}

    def call_events(self, body: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        whole = self.with_calls(dict(body), calls)
        return [{"candidates": [{"content": whole["candidates"][0]["content"], "index": 0}]}]

    def piece(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        # As Gemini does, each event has the usage until then.
        content = {"role": "model", "parts": [{"text": text}]}
        return {"candidates": [{"content": content, "index": 0}], "usageMetadata": body["usageMetadata"]}

    def around(self, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        end = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP", "index": 0}
        return [], [{**body, "candidates": [end]}]

    def error(self, status: int, code: Any, message: str) -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": str(code).upper()}}


_BY_ENDING: Final[Mapping[str, Wire]] = {
    "/chat/completions": _ChatCompletions(),
    "/responses": _Responses(),
    "/messages": _Messages(),
    ":generateContent": _GenerateContent(),
    ":streamGenerateContent": _GenerateContent(),
}


def wire_of(path: str) -> Wire | None:
    """Return the API to which a request with this path belongs."""
    path = path.partition("?")[0]
    return next((wire for ending, wire in _BY_ENDING.items() if path.endswith(ending)), None)


def with_model(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request with its ``model`` and ``stream``, which Gemini has in the path."""
    path = path.partition("?")[0]
    _, is_gemini, rest = path.partition("/models/")
    if not is_gemini:
        return body
    model, _, method = rest.rpartition(":")
    return {**body, "model": model, "stream": method.startswith("stream")}


def _called(calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"call_{index}", {"name": call["name"], "arguments": call.get("arguments") or json.dumps(call["args"])})
        for index, call in enumerate(calls)
    ]


def _chunk(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that all events of one chat completion share."""
    return {"object": "chat.completion.chunk", **{key: body[key] for key in ("id", "created", "model")}}
