"""Serve a language model on loopback for the tests: OpenAI's chat completions and responses, Anthropic's messages.

In a Python test, where the fixture ``model_server`` is a running server::

    with ModelServer() as server:
        lm = dspy.LM("openai/answer", api_base=f"{server.url}/v1", api_key="key", cache=False)

As a process (``python tests/model_server.py``), for tests in another language: the first line on stdout is the URL, and
the process ends when its stdin is closed. A line on stdin adds scripted replies, ``{"name": "x", "replies": [...]}``,
and is answered by the line ``ok``. ``GET /requests`` returns the received requests as JSON.

The name of the model chooses the answer to a request (``openai/delay-500`` sends ``delay-500``):

==========================  ===========================================================================================
``delay-<ms>``              the answer after a delay
``status-<code>``           this HTTP error; 429 and 503 with ``retry-after: 1``, ``status-429-7`` with 7
``error-<code>``            the provider's error of this code: ``context_length_exceeded``, ``model_not_found``,
                            ``insufficient_quota``, ``invalid_api_key``
``garbage``                 an answer without any field
``malformed``               a body that is not JSON
``closed``                  the connection is closed before the answer
``cut``                     the connection is closed in the middle of the answer
``slow-<ms>``               an answer in pieces, with this pause before each piece
``long-<count>``            an answer of this number of words
``echo``                    the first input's value for each text field
``scripted:<name>``         the next reply of this script; HTTP 500 if none is left
anything else               ``answer to <first input>`` for each text field, and a fixed value for each other type
==========================  ===========================================================================================

A reply of a script is a map, and every key is optional: ``fields`` (name -> value, written in the format that the
prompt asks for), ``content`` (the text as it is), ``calls`` (tool calls in place of text, each with ``name`` and
``args``), ``delay_ms``, ``status`` and ``code`` (an error instead of an answer), ``finish_reason``, ``refusal`` and
``reasoning_tokens`` (of chat completions).

A request with ``stream`` gets the same answer in pieces, as server-sent events. Keys of a reply for streams: ``pieces``
(the text in given pieces; by default a piece is a few characters) and ``pause_ms`` before each piece.
"""

from __future__ import annotations

import ast
import json
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

_ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "context_length_exceeded": (400, "This model's maximum context length is 128000 tokens."),
    "model_not_found": (404, "The model does not exist or you do not have access to it."),
    "insufficient_quota": (429, "You exceeded your current quota, please check your plan and billing details."),
    "invalid_api_key": (401, "Incorrect API key provided."),
}
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
_WITH_RETRY_AFTER: Final = (429, 503)

_REQUIREMENTS: Final = re.compile(r"Respond with (?:the corresponding output fields|a JSON object in the following)")
_FIELD: Final = re.compile(
    r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`(?: \(must be formatted as a valid Python ((?:[^()]|\([^()]*\))*)\))?"
)
_SECTION: Final = re.compile(r"\[\[ ## \w+ ## \]\]\n(.*?)(?=\n\n\[\[ ## |\n\nRespond with |\Z)", re.DOTALL)
_POLL_S: Final = 0.02


@dataclass
class ReceivedRequest:
    """A received request.

    Attributes:
        path: The path, such as ``/v1/chat/completions``.
        headers: Names in lower case.
        body: The decoded JSON.
        disconnected: Whether the client closed the connection before the answer was sent.
        done: Set when the server has finished the request.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    disconnected: bool = False
    done: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def model(self) -> str:
        """Return the model's name, which chooses the behaviour."""
        return str(self.body.get("model", ""))


class ModelServer:
    """The server, on a free port of 127.0.0.1; each connection has its own thread.

    Attributes:
        requests: All received requests.
        most_at_once: The largest number of answers that were delayed at the same time.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.most_at_once = 0
        self._delayed = 0
        self._scripts: dict[str, list[Mapping[str, Any]]] = {}
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_S,), name="model server")

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.close_connections()
        self._http.server_close()
        self._thread.join()

    def script(self, name: str, *replies: Mapping[str, Any]) -> None:
        """Add replies for the model ``scripted:<name>``."""
        with self._changed:
            self._scripts.setdefault(name, []).extend(replies)

    def wait_for_requests(self, count: int, timeout_s: float = 10.0) -> list[ReceivedRequest]:
        """Wait until ``count`` requests have been received, and return all of them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"expected {count} requests within {timeout_s} s, got {len(self.requests)}")
            return list(self.requests)

    def receive(self, request: ReceivedRequest) -> None:
        """Record a request."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def next_reply(self, name: str) -> Mapping[str, Any]:
        """Remove and return the next reply of a script."""
        with self._changed:
            replies = self._scripts.get(name)
            return replies.pop(0) if replies else {"status": 500, "code": f"no reply is left in script {name!r}"}

    def sleep(self, delay_ms: int, is_disconnected: Callable[[], bool]) -> bool:
        """Wait; return ``False`` if the client has disconnected or the server has stopped meanwhile."""
        ends_at = time.monotonic() + delay_ms / 1000
        with self._changed:
            self._delayed += 1
            self.most_at_once = max(self.most_at_once, self._delayed)
        try:
            while (left := ends_at - time.monotonic()) > 0:
                if self._stopped.wait(min(left, _POLL_S)) or is_disconnected():
                    return False
            return True
        finally:
            with self._changed:
                self._delayed -= 1


def openai(server: ModelServer, model: str, **options: Any) -> dict[str, Any]:
    """Return the option ``lm`` for a model, and so a behaviour, of the server on loopback."""
    base = f"{server.url}/v1"
    return {
        "provider": "openai",
        "model": model,
        "api_base": base,
        "api_key": "sk-loopback-key",
        "num_retries": 0,
        **options,
    }


class _Server(ThreadingHTTPServer):
    # Hundreds of clients connect at once; the default backlog of 5 would refuse most of them.
    request_queue_size = 1024
    daemon_threads = True
    owner: ModelServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close the kept-alive connections, so that their threads end with the server."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # the client has closed it already
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Some tests disconnect a client on purpose; any other error must be shown.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Send head and body at once: in two sends, Nagle's algorithm and the client's delayed ACK add 40 ms to each answer.
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: stdout has the URL only."""

    def do_GET(self) -> None:
        received = [
            {"path": r.path, "headers": r.headers, "body": r.body, "disconnected": r.disconnected}
            for r in list(self.server.owner.requests)
        ]
        self._send(200, {"requests": received})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = ReceivedRequest(self.path, headers, body)
        self.server.owner.receive(received)
        try:
            self._answer(received)
        finally:
            received.done.set()

    def _answer(self, received: ReceivedRequest) -> None:
        if not self.path.endswith(("/chat/completions", "/responses", "/messages")):
            self._send_error(404, "not_found", f"no such endpoint: {self.path}")
            return
        kind, _, detail = received.model.replace(":", "-", 1).partition("-")
        reply: Mapping[str, Any] = {}
        if kind == "scripted":
            reply = self.server.owner.next_reply(detail)
        elif kind == "delay":
            reply = {"delay_ms": int(detail)}
        elif kind == "slow":
            reply = {"pause_ms": int(detail)}
        elif kind == "long":
            text = " ".join(f"word{number}" for number in range(int(detail)))
            reply = {"fields": {"answer": text}, "piece_characters": 1_000}
        elif kind == "status":
            code, _, retry_after = detail.partition("-")
            reply = {"status": int(code), "retry_after": retry_after or "1"}
        elif kind == "error":
            reply = {"status": _ERRORS[detail][0], "code": detail}
        elif kind in ("malformed", "closed", "cut"):
            self._break(kind)
            return
        self._send_reply(received, reply, kind)

    def _send_reply(self, received: ReceivedRequest, reply: Mapping[str, Any], kind: str) -> None:
        if not self.server.owner.sleep(reply.get("delay_ms", 0), self._is_disconnected):
            received.disconnected = self._is_disconnected()
            self.close_connection = True
            return
        if "status" in reply:
            code = reply.get("code", f"status_{reply['status']}")
            message = _ERRORS[code][1] if code in _ERRORS else f"the test asked for {code}"
            self._send_error(reply["status"], code, message, reply.get("retry_after", "1"))
            return
        system, user = _prompt(received.body)
        if "content" in reply:
            content = reply["content"]
        elif "pieces" in reply:
            content = "".join(reply["pieces"])
        elif kind == "garbage":
            content = "I would rather not say."
        else:
            content = completion(user, reply.get("fields", {}), "" if kind == "echo" else "answer to ")
        body = self._completion_body(received.model, content, len(system) + len(user))
        if "choices" in body:
            _end_otherwise(body, reply)
        if not received.body.get("stream"):
            self._send(200, self._with_calls(body, reply.get("calls", [])))
            return
        try:
            self._send_pieces(received, reply, body)
        except ConnectionError:
            received.disconnected = True
            self.close_connection = True

    def _send_pieces(self, received: ReceivedRequest, reply: Mapping[str, Any], body: dict[str, Any]) -> None:
        """Send an answer as server-sent events, as a provider does with ``stream``."""
        content, size = self._content(body), reply.get("piece_characters", 5)
        pieces = reply.get("pieces") or [content[start : start + size] for start in range(0, len(content), size)]
        self.close_connection = True  # the end of the connection is the end of the answer
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        first, last = self._events_around(body)
        for event in first:
            self._send_event(event)
        for piece in pieces:
            if not self.server.owner.sleep(reply.get("pause_ms", 0), self._is_disconnected):
                received.disconnected = self._is_disconnected()
                return
            self._send_event(self._piece_event(body, piece))
        for event in last:
            self._send_event(event)
        if not self._is_anthropic():
            self.wfile.write(b"data: [DONE]\n\n")
        self.wfile.flush()

    def _content(self, body: Mapping[str, Any]) -> str:
        if self._is_anthropic():
            return str(body["content"][0]["text"])
        if self._is_responses():
            return str(body["output"][0]["content"][0]["text"])
        return str(body["choices"][0]["message"]["content"])

    def _piece_event(self, body: Mapping[str, Any], piece: str) -> dict[str, Any]:
        if self._is_anthropic():
            return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        if self._is_responses():
            place = {"item_id": "msg_test", "output_index": 0, "content_index": 0}
            return {"type": "response.output_text.delta", **place, "delta": piece}
        choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
        return {**_chunk(body), "choices": [choice]}

    def _events_around(self, body: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the events before the pieces, and the events after them."""
        if self._is_anthropic():
            usage = body["usage"]
            message = {**body, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
            block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            end = {"stop_reason": "end_turn", "stop_sequence": None}
            return [{"type": "message_start", "message": message}, block], [
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": end, "usage": {"output_tokens": usage["output_tokens"]}},
                {"type": "message_stop"},
            ]
        if self._is_responses():
            begun = {**body, "status": "in_progress", "output": [], "usage": None}
            return [{"type": "response.created", "response": begun}], [{"type": "response.completed", "response": body}]
        stop = {"index": 0, "delta": {}, "finish_reason": body["choices"][0]["finish_reason"]}
        return [], [{**_chunk(body), "choices": [stop]}, {**_chunk(body), "choices": [], "usage": body["usage"]}]

    def _send_event(self, event: Mapping[str, Any]) -> None:
        # Events of Anthropic's messages and of OpenAI's responses have a name; events of chat completions have none.
        name = f"event: {event['type']}\n" if "type" in event else ""
        self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _completion_body(self, model: str, content: str, prompt_characters: int) -> dict[str, Any]:
        tokens_in, tokens_out = prompt_characters // 4, len(content) // 4
        if self._is_anthropic():
            return {
                "id": "msg_test",
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [{"type": "text", "text": content}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out},
            }
        if self._is_responses():
            text = {"type": "output_text", "text": content, "annotations": []}
            message = {"type": "message", "id": "msg_test", "role": "assistant", "status": "completed"}
            return {
                "id": "resp_test",
                "object": "response",
                "created_at": 0,
                "status": "completed",
                "model": model,
                "output": [{**message, "content": [text]}],
                "usage": {
                    "input_tokens": tokens_in,
                    "output_tokens": tokens_out,
                    "total_tokens": tokens_in + tokens_out,
                },
            }
        return {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
        }

    def _with_calls(self, body: dict[str, Any], calls: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the answer with tool calls in place of its text."""
        if not calls:
            return body
        if self._is_anthropic():
            used = [
                {"type": "tool_use", "id": f"call_{index}", "name": call["name"], "input": call["args"]}
                for index, call in enumerate(calls)
            ]
            return {**body, "content": used, "stop_reason": "tool_use"}
        asked = [
            {"id": f"call_{index}", "name": call["name"], "arguments": json.dumps(call["args"])}
            for index, call in enumerate(calls)
        ]
        if self._is_responses():
            return {**body, "output": [{"type": "function_call", "call_id": call.pop("id"), **call} for call in asked]}
        called = [{"id": call.pop("id"), "type": "function", "function": call} for call in asked]
        message = {"role": "assistant", "content": None, "tool_calls": called}
        return {**body, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    def _is_anthropic(self) -> bool:
        return self.path.endswith("/messages")

    def _is_responses(self) -> bool:
        return self.path.endswith("/responses")

    def _is_disconnected(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except ConnectionError:
            return True

    def _break(self, kind: str) -> None:
        if kind == "malformed":
            self._send_bytes(200, b'{"choices": [{"message": ')
            return
        if kind == "cut":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
            self.wfile.write(head + b'{"choices": [')
            self.wfile.flush()
        self.close_connection = True

    def _send_error(self, status: int, code: str, message: str, retry_after: str = "1") -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": code}
        body: dict[str, Any] = {"error": error}
        if self._is_anthropic():
            kind = _ANTHROPIC_TYPES.get(status, "api_error")
            body = {"type": "error", "error": {"type": kind, "message": message}}
        headers = {"retry-after": retry_after} if status in _WITH_RETRY_AFTER else {}
        self._send_bytes(status, json.dumps(body).encode(), headers)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(body).encode())

    def _send_bytes(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", "x-request-id": "req_test", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _end_otherwise(body: dict[str, Any], reply: Mapping[str, Any]) -> None:
    """Let a chat completion end as a reply says, if it does."""
    choice = body["choices"][0]
    choice["finish_reason"] = reply.get("finish_reason", "stop")
    if "refusal" in reply:
        choice["message"] |= {"content": None, "refusal": reply["refusal"]}
    if "reasoning_tokens" in reply:
        body["usage"]["completion_tokens_details"] = {"reasoning_tokens": reply["reasoning_tokens"]}


def _chunk(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that all events of one chat completion share."""
    return {
        "object": "chat.completion.chunk",
        **{key: body[key] for key in ("id", "created", "model")},
    }


def _prompt(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return the system text and the last user message of a request, whatever the provider's format."""
    messages = body.get("messages") or body.get("input") or []
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    system = [_text(body.get("system") or body.get("instructions") or "")]
    system += [_text(message["content"]) for message in messages if message["role"] in ("system", "developer")]
    users = [_text(message["content"]) for message in messages if message["role"] == "user"]
    return "".join(system), users[-1] if users else ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def completion(user: str, fields: Mapping[str, Any], prefix: str) -> str:
    """Return an answer with every output field that a prompt of DSPy asks for.

    Args:
        user: The last user message.
        fields: Given values of fields; the values of other fields are made up from their types.
        prefix: The text before the first input's value in a text field.
    """
    starts = [match.start() for match in _REQUIREMENTS.finditer(user)]
    requirement = user[starts[-1] :] if starts else ""
    first_input = _SECTION.search(user)
    text = prefix + (first_input[1].strip() if first_input else user.strip())
    listed = _FIELD.findall(requirement)
    if not requirement.startswith("Respond with a JSON object"):
        listed = listed[:-1]  # the closing marker
    wanted = {name: kind or "str" for name, kind in listed}
    values = {name: fields.get(name, _value(kind, text)) for name, kind in wanted.items()}
    if requirement.startswith("Respond with a JSON object"):
        return json.dumps(values)
    sections = [f"[[ ## {name} ## ]]\n{_written(value)}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(kind: str, text: str) -> Any:
    """Return a valid value for a type as DSPy writes it."""
    fixed: dict[str, Any] = {"str": text, "int": 42, "float": 0.5, "bool": True}
    if kind in fixed:
        return fixed[kind]
    if kind.startswith("Literal["):
        # ReAct's tools: finishing at once is the one choice that always ends.
        return "finish" if "'finish'" in kind else ast.literal_eval(kind.removeprefix("Literal"))[0]
    if kind.startswith("list["):
        return [_value(kind[len("list[") : -1], text)]
    return {} if kind.startswith("dict[") else None


def main() -> None:
    """Serve until stdin is closed."""
    with ModelServer() as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            script = json.loads(line)
            server.script(script["name"], *script["replies"])
            sys.stdout.write("ok\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
