"""Stand for a collector of OpenTelemetry: takes OTLP over HTTP on loopback, decodes the protobuf, and keeps the spans.

Run as a program, it writes its address, answers ``GET /spans`` with all spans as JSON, ``GET /bytes`` with what it has
received, and ends when stdin is closed.
"""

from __future__ import annotations

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """A collector in a thread of this process.

    Args:
        port: The port on which it listens; any free one by default.

    Attributes:
        url: Its address, without a path.
        requests: The bodies of all requests, as they came, and their headers.
        status: What it answers.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        self.status = 200
        self._came = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._take(self)

            def do_GET(self) -> None:
                body = json.dumps(collector.spans).encode() if self.path == "/spans" else collector.received()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        if handler.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        right = handler.path == "/v1/traces" and handler.headers["content-type"] == "application/x-protobuf"
        with self._came:
            if right and self.status == 200:
                self.requests.append((body, dict(handler.headers.items())))
            self._came.notify_all()
        handler.send_response(self.status if right else 404)
        handler.send_header("content-length", "0")
        handler.end_headers()

    def received(self) -> bytes:
        """Return the bodies of all requests."""
        return b"".join(body for body, _ in self.requests)

    @property
    def spans(self) -> list[dict[str, Any]]:
        """Return all spans, in the order in which they came."""
        return [span for body, _ in tuple(self.requests) for span in _spans(body)]

    def wait_for(self, count: int, timeout_s: float = 30) -> list[dict[str, Any]]:
        """Wait until so many spans have come, and return all."""
        with self._came:
            if not self._came.wait_for(lambda: len(self.spans) >= count, timeout_s):
                raise AssertionError(f"expected {count} spans, got {[span['name'] for span in self.spans]}")
        return self.spans


def _spans(body: bytes) -> list[dict[str, Any]]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        {
            "trace_id": span.trace_id.hex(),
            "id": span.span_id.hex(),
            "parent": span.parent_span_id.hex() or None,
            "name": span.name,
            "kind": span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            "start_us": span.start_time_unix_nano // 1000,
            "duration_us": (span.end_time_unix_nano - span.start_time_unix_nano) // 1000,
            "status": span.status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
            "message": span.status.message,
            "attributes": _attributes(span.attributes),
            "events": [
                {
                    "name": event.name,
                    "attributes": _attributes(event.attributes),
                    "after_us": (event.time_unix_nano - span.start_time_unix_nano) // 1000,
                }
                for event in span.events
            ],
            "resource": _attributes(resource.resource.attributes),
        }
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(given: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in given}


def _value(given: Any) -> Any:
    kind = given.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in given.array_value.values]
    return getattr(given, kind) if kind else None


def main() -> None:
    """Serve until stdin is closed."""
    with Collector() as collector:
        sys.stdout.write(collector.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
