"""Answer one request: choose the behaviour by the name of the model, and write the answer."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final

from tests.model_server.answers import completion, prompt
from tests.model_server.breakage import broken, written
from tests.model_server.wires import Wire, wire_of, with_model

if TYPE_CHECKING:
    from tests.model_server.server import ReceivedRequest, _Server

_ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "context_length_exceeded": (400, "This model's maximum context length is 128000 tokens."),
    "model_not_found": (404, "The model does not exist or you do not have access to it."),
    "insufficient_quota": (429, "You exceeded your current quota, please check your plan and billing details."),
    "invalid_api_key": (401, "Incorrect API key provided."),
}
_WITH_RETRY_AFTER: Final = (429, 503)
_ELSEWHERE: Final = "http://elsewhere.test/v2/chat/completions?token=redirect-secret-0123456789"
_JSON: Final = "application/json"


class Handler(BaseHTTPRequestHandler):
    """The handler of one connection."""

    protocol_version = "HTTP/1.1"
    # Send head and body at once: in two sends, Nagle's algorithm and the client's delayed ACK add 40 ms to each answer.
    wbufsize = -1
    server: _Server
    wire: Wire

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: stdout has the URL only."""

    def do_GET(self) -> None:
        """Send the received requests."""
        received = [
            {"path": r.path, "headers": r.headers, "body": r.body, "disconnected": r.disconnected}
            for r in list(self.server.owner.requests)
        ]
        self._send(200, {"requests": received})

    def do_POST(self) -> None:
        """Answer a request to the model, or take a script."""
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        if self.path == "/script":
            self.server.owner.script(body["name"], *body["replies"])
            self._send(200, {})
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = self.server.owner.receive(self.path, headers, with_model(self.path, body))
        try:
            self._answer(received)
        finally:
            received.done.set()

    def _answer(self, received: ReceivedRequest) -> None:
        wire = wire_of(self.path)
        self.wire = wire or wire_of("/chat/completions")  # type: ignore[assignment]
        if wire is None:
            self._send_error(404, "not_found", f"no such endpoint: {self.path}")
            return
        kind, _, detail = received.model.replace(":", "-", 1).partition("-")
        reply: Mapping[str, Any] = {}
        if kind == "scripted" or self.server.owner.has_script(received.model):
            name = detail if kind == "scripted" else received.model
            reply = self.server.owner.next_reply(name, prompt(received.body)[1])
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
        elif kind in ("broken", "inband"):
            reply = {kind: detail}
        elif kind == "redirect":
            self._send_bytes(int(detail), b"<html>moved</html>", "text/html", {"location": _ELSEWHERE})
            return
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
        system, user = prompt(received.body)
        if "content" in reply:
            content = reply["content"]
        elif "pieces" in reply:
            content = "".join(reply["pieces"])
        elif kind == "garbage":
            content = "I would rather not say."
        else:
            content = completion(user, reply.get("fields", {}), "" if kind == "echo" else "answer to ")
        body = self.wire.body(received.model, content, ((len(system) + len(user)) // 4, len(content) // 4))
        if "choices" in body:
            _end_otherwise(body, reply)
        try:
            self._send_answer(received, reply, body, content)
        except ConnectionError:
            received.disconnected = True
            self.close_connection = True

    def _send_answer(
        self, received: ReceivedRequest, reply: Mapping[str, Any], body: dict[str, Any], content: str
    ) -> None:
        size = reply.get("piece_characters", 5)
        pieces = reply.get("pieces") or [content[start : start + size] for start in range(0, len(content), size)]
        streams = bool(received.body.get("stream"))
        if "broken" in reply:
            content_type, raw = broken(reply["broken"], self.wire, body, pieces, streams=streams)
            self._send_bytes(200, raw, content_type)
        elif "inband" in reply and not streams:
            status, _, _ = reply["inband"].partition("-")
            self._send(200, self.wire.error(int(status), int(status), "the provider is down"))
        elif streams:
            self._send_pieces(received, reply, body, pieces)
        else:
            calls = reply.get("calls")
            self._send(200, self.wire.with_calls(body, calls) if calls else body)

    def _send_pieces(
        self, received: ReceivedRequest, reply: Mapping[str, Any], body: dict[str, Any], pieces: list[str]
    ) -> None:
        """Send an answer as server-sent events, as a provider does with ``stream``."""
        self.close_connection = True  # the end of the connection is the end of the answer
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        first, last = self.wire.around(body)
        if "inband" in reply:
            status, _, late = reply["inband"].partition("-")
            first, pieces = (first, pieces) if late else ([], [])
            last = [self.wire.error_event(int(status), "the provider is down")]
        for event in first:
            self._send_event(event)
        calls = reply.get("calls")
        for event in self.wire.call_events(body, calls) if calls else ():
            self._send_event(event)
        for piece in pieces if not calls else ():
            if not self.server.owner.sleep(reply.get("pause_ms", 0), self._is_disconnected):
                received.disconnected = self._is_disconnected()
                return
            self._send_event(self.wire.piece(body, piece))
        for event in last:
            self._send_event(event)
        self.wfile.write(self.wire.ends_with)
        self.wfile.flush()

    def _send_event(self, event: Mapping[str, Any]) -> None:
        self.wfile.write(written(event))
        self.wfile.flush()

    def _is_disconnected(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except ConnectionError:
            return True

    def _break(self, kind: str) -> None:
        if kind == "malformed":
            self._send_bytes(200, b'{"choices": no JSON}')
            return
        if kind == "cut":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
            self.wfile.write(head + b'{"choices": [')
            self.wfile.flush()
        self.close_connection = True

    def _send_error(self, status: int, code: str, message: str, retry_after: str = "1") -> None:
        headers = {"retry-after": retry_after} if status in _WITH_RETRY_AFTER else {}
        self._send_bytes(status, json.dumps(self.wire.error(status, code, message)).encode(), headers=headers)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(body).encode())

    def _send_bytes(
        self, status: int, body: bytes, content_type: str = _JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"content-type": content_type, "x-request-id": "req_test", **(headers or {})}.items():
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
