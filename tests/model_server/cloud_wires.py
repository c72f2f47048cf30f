"""Serve the APIs of Cohere (v2 chat) and of Amazon Bedrock (Converse) on loopback, which LiteLLM alone speaks.

The name of the model chooses the answer: ``status-<code>`` an error, ``page`` a page of HTML, ``late`` an error of
status 429 within a stream, ``cut`` a stream that ends early, anything else ``[[ ## answer ## ]] Lisbon``.
"""

from __future__ import annotations

import binascii
import json
import struct
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final
from urllib.parse import unquote

TEXT: Final = "[[ ## answer ## ]]\nLisbon\n\n[[ ## completed ## ]]"
_POLL_S: Final = 0.05
_PAGE: Final = b"<html><body>Sign in</body></html>"


class CloudServer:
    """The server, on a free port of 127.0.0.1.

    Attributes:
        requests: The path and the body of each request.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.cloud = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_S,), name="cloud server")

    def __enter__(self) -> CloudServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        """Answer a request."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.cloud.requests.append((self.path, body))  # type: ignore[attr-defined]
        wire: _Cohere | _Converse
        if "/model/" in self.path:
            model, _, method = unquote(self.path).partition("/model/")[2].partition("/")
            model, is_stream, wire = model.rpartition(".")[2], method == "converse-stream", _CONVERSE
        else:
            model, is_stream, wire = body["model"], bool(body.get("stream")), _COHERE
        kind, _, detail = model.partition("-")
        if kind == "status":
            self._send(int(detail), wire.content_type, wire.error(int(detail)), wire.headers(int(detail)))
        elif kind == "page":
            self._send(200, "text/html", _PAGE)
        elif is_stream:
            parts = list(wire.parts())
            if kind in ("cut", "late"):
                parts = parts[: len(parts) // 2] + ([wire.late()] if kind == "late" else [])
            self._send(200, wire.stream_type, b"".join(parts))
        else:
            self._send(200, wire.content_type, json.dumps(wire.whole()).encode())

    def _send(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class _Cohere:
    content_type = "application/json"
    stream_type = "text/event-stream"
    _usage: Final = {"tokens": {"input_tokens": 7, "output_tokens": 5}}

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": [{"type": "text", "text": TEXT}]}
        return {"id": "c", "finish_reason": "COMPLETE", "message": message, "usage": self._usage}

    def parts(self) -> Iterator[bytes]:
        begun = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}
        yield self._event({"type": "message-start", "id": "c", "delta": begun})
        block = {"message": {"content": {"type": "text", "text": ""}}}
        yield self._event({"type": "content-start", "index": 0, "delta": block})
        for at in range(0, len(TEXT), 5):
            piece = {"message": {"content": {"text": TEXT[at : at + 5]}}}
            yield self._event({"type": "content-delta", "index": 0, "delta": piece})
        yield self._event({"type": "content-end", "index": 0})
        yield self._event({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": self._usage}})

    def late(self) -> bytes:
        return self._event({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "too many requests"}})

    def error(self, status: int) -> bytes:
        return json.dumps({"id": "c", "message": f"status {status}"}).encode()

    def headers(self, status: int) -> dict[str, str]:
        return {"retry-after": "7"} if status == 429 else {}

    def _event(self, data: dict[str, Any]) -> bytes:
        return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


class _Converse:
    content_type = "application/json"
    stream_type = "application/vnd.amazon.eventstream"
    _usage: Final = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": [{"text": TEXT}]}
        end = {"stopReason": "end_turn", "usage": self._usage, "metrics": {"latencyMs": 1}}
        return {"output": {"message": message}, **end}

    def parts(self) -> Iterator[bytes]:
        yield self._frame("event", "messageStart", {"role": "assistant"})
        for at in range(0, len(TEXT), 5):
            piece = {"contentBlockIndex": 0, "delta": {"text": TEXT[at : at + 5]}}
            yield self._frame("event", "contentBlockDelta", piece)
        yield self._frame("event", "contentBlockStop", {"contentBlockIndex": 0})
        yield self._frame("event", "messageStop", {"stopReason": "end_turn"})
        yield self._frame("event", "metadata", {"usage": self._usage, "metrics": {"latencyMs": 1}})

    def late(self) -> bytes:
        return self._frame("exception", "throttlingException", {"message": "too many requests"})

    def error(self, status: int) -> bytes:
        return json.dumps({"message": f"status {status}"}).encode()

    def headers(self, status: int) -> dict[str, str]:
        kind = {429: "ThrottlingException", 500: "InternalServerException", 403: "AccessDeniedException"}.get(status)
        return {"x-amzn-errortype": kind or "ValidationException"}

    def _frame(self, kind: str, name: str, payload: dict[str, Any]) -> bytes:
        """Return a message of ``application/vnd.amazon.eventstream``."""
        values = {":message-type": kind, f":{kind}-type": name, ":content-type": "application/json"}
        headers = b"".join(
            bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
            for key, value in values.items()
        )
        body = json.dumps(payload).encode()
        prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
        prelude += struct.pack(">I", binascii.crc32(prelude))
        message = prelude + headers + body
        return message + struct.pack(">I", binascii.crc32(message))


_COHERE: Final = _Cohere()
_CONVERSE: Final = _Converse()
