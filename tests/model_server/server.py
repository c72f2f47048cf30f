"""The server on loopback, and what it has received."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.model_server.handler import Handler

#: The certificate of a server with TLS, and its key; made by ``openssl req -x509 -nodes -days 36500 ...``.
CERTIFICATE: Final = Path(__file__).with_name("loopback.pem")
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

    Args:
        tls: Whether the server speaks HTTPS, with the certificate in ``loopback.pem``, which nobody has signed.

    Attributes:
        requests: All received requests.
        most_at_once: The largest number of answers that were delayed at the same time.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.requests: list[ReceivedRequest] = []
        self.most_at_once = 0
        self._delayed = 0
        self._scripts: dict[str, list[Mapping[str, Any]]] = {}
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.owner = self
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"http{'s' * tls}://127.0.0.1:{self._http.server_address[1]}"
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

    def wait_for_requests(self, count: int, timeout_s: float = 60.0) -> list[ReceivedRequest]:
        """Wait until ``count`` requests have been received, and return all of them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"expected {count} requests within {timeout_s} s, got {len(self.requests)}")
            return list(self.requests)

    def receive(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> ReceivedRequest:
        """Record a request, and return it."""
        request = ReceivedRequest(path, headers, body)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return request

    def has_script(self, name: str) -> bool:
        """Return whether there is a script of this name."""
        return name in self._scripts

    def next_reply(self, name: str, prompt: str) -> Mapping[str, Any]:
        """Remove and return the next reply of a script that is for this prompt."""
        with self._changed:
            replies = self._scripts.get(name, [])
            for place, reply in enumerate(replies):
                if reply.get("when", "") in prompt:
                    return replies.pop(place)
        return {"status": 500, "code": f"no reply is left in script {name!r}"}

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
