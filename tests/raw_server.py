"""Serve bytes as they are given in place of a language model: what no HTTP library would send."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final

TEXT: Final = "[[ ## answer ## ]]\nLisbon\n\n[[ ## completed ## ]]"
_STREAM: Final = "text/event-stream"


class RawServer:
    """A server on a free port of 127.0.0.1 that answers each request with given bytes.

    Args:
        reply: Returns the answer to a request, of which it is given the number from 0 and the decoded body: parts that
            are bytes, or a function that is called. Afterwards the next request is read; a part ``None`` closes the
            connection.
    """

    def __init__(self, reply: Callable[[int, dict[str, Any]], Iterable[Any]]) -> None:
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._count = 0
        #: Set when the server ends: what a part may wait for.
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.ended.set()
        for end in (self._listener, *self._connections):
            with contextlib.suppress(OSError):  # it may be closed already
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def model(self, name: str = "raw", **options: Any) -> dict[str, Any]:
        """Return the option ``lm`` for this server."""
        base = {"provider": "openai", "model": name, "api_base": f"{self.url}/v1", "api_key": "sk-loopback-key"}
        return {**base, "num_retries": 0, **options}

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the server has ended
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as reader:
                while (body := _request(reader)) is not None:
                    with self._lock:
                        number = self._count
                        self._count += 1
                    for part in self._reply(number, body):
                        if part is None:
                            return
                        if callable(part):
                            part()
                        else:
                            connection.sendall(part)
        except OSError:  # the client has disconnected
            return


def _request(reader: Any) -> dict[str, Any] | None:
    size = 0
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    return json.loads(reader.read(size)) if line else None


def sent(body: bytes, content_type: str = "application/json", status: str = "200 OK", **headers: str) -> bytes:
    """Return a whole reply, with its length."""
    return begun(content_type, status, content_length=str(len(body)), **headers) + body


def begun(content_type: str, status: str = "200 OK", **headers: str) -> bytes:
    """Return the head of a reply."""
    lines = {"content-type": content_type, **headers}
    return (
        f"HTTP/1.1 {status}\r\n".encode()
        + b"".join(f"{name.replace('_', '-')}: {value}\r\n".encode() for name, value in lines.items())
        + b"\r\n"
    )


def chunk(body: bytes) -> bytes:
    """Return a chunk of a chunked body."""
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def completion(text: str = TEXT) -> bytes:
    """Return a whole answer of chat completions."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": "raw", "choices": [choice], "usage": usage}
    ).encode()


def event(data: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def pieces(*texts: str, done: bool = True) -> bytes:
    """Return the events of a streamed answer, with its last ones."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "raw"}
    deltas: list[tuple[dict[str, Any], str | None]] = [*(({"content": text}, None) for text in texts), ({}, "stop")]
    events = [
        event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}) for delta, reason in deltas
    ]
    return b"".join(events) + (event(b"[DONE]") if done else b"")


def answer(body: dict[str, Any], text: str = TEXT) -> bytes:
    """Return a right answer to a request, whole or as a stream."""
    return sent(pieces(text), _STREAM) if body.get("stream") else sent(completion(text))
