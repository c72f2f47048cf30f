"""Export spans by OTLP over HTTP, with the exporter of ``opentelemetry-exporter-otlp-proto-http``.

``DSPEX_OTLP`` says where: ``off``, ``on`` (the standard variables ``OTEL_EXPORTER_OTLP_…`` say it), or the address of a
collector. ``DSPEX_OTLP_CONTENT`` is ``metadata``, or ``full`` for prompts, answers, and the messages of errors too.
Which traces are exported is decided by the sampler that the standard variables name, as in the SDK.

A span is handed over when it ends, which takes a microsecond. A thread names, encodes and sends them, once a second or
as soon as there are enough. It is started by the first span, so that a template process has none. While the collector
does not answer, a bounded number of spans wait, further ones are dropped, and one line is logged.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from erlport_bridge.errors import MissingPackageError, OperationError
from erlport_bridge.redaction import redact, remember_secret
from erlport_bridge.tracing import application_context
from erlport_bridge.tracing.conventions import TEXTS, described
from erlport_bridge.tracing.traceparent import Traceparent

_VARIABLE: Final = "DSPEX_OTLP"
_CONTENT_VARIABLE: Final = "DSPEX_OTLP_CONTENT"
_PACKAGES: Final = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
_PATH: Final = "/v1/traces"
_PROTOCOL: Final = "http/protobuf"
_SAMPLER_VARIABLE: Final = "OTEL_TRACES_SAMPLER"

#: How many spans may wait, and how many characters of texts they may have together.
MAX_WAITING: Final = 8_192
MAX_CHARACTERS: Final = 32_000_000
# How many are sent together, and how long they wait for others, in seconds.
_BATCH: Final = 512
_DELAY_S: Final = 1.0
# How long the end of the process may wait for what is left. Less than the time after which the lifeline ends it.
_FLUSH_S: Final = 0.25

_log = logging.getLogger(__name__)

#: Whether spans of the current context are exported.
is_wanted: ContextVar[bool] = ContextVar("is_export_wanted", default=True)


class Finished(NamedTuple):
    """A span that has ended.

    Attributes:
        trace_id: 32 hexadecimal digits.
        id: 16 hexadecimal digits.
        parent: The id of the span around it, or ``None``.
        is_parent_remote: Whether that is a span of another process.
        kind: What it is about.
        name: Its name.
        start_ns: When it began, in nanoseconds of Unix time.
        end_ns: When it ended.
        error_kind: The kind of the error that ended it, ``cancelled``, or ``None``.
        message: The message of the error, which is told with texts only.
        attributes: Its attributes, which may have texts that are not told.
    """

    trace_id: str
    id: str
    parent: str | None
    is_parent_remote: bool
    kind: str
    name: str
    start_ns: int
    end_ns: int
    error_kind: str | None
    message: str | None
    attributes: Mapping[str, Any]


class Settings(NamedTuple):
    """What the environment says of the export.

    Attributes:
        endpoint: The address for spans; ``None``: the standard variables have it.
        has_texts: Whether prompts, answers and the like are exported.
    """

    endpoint: str | None
    has_texts: bool


def read_settings(environment: Mapping[str, str]) -> Settings | None:
    """Return what the environment says of the export; ``None``: nothing is exported.

    Raises:
        OperationError: Of kind ``input``.
    """
    given = environment.get(_VARIABLE) or "off"
    if given == "off":
        return None
    endpoint = None if given == "on" else _endpoint(given)
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or (endpoint is None and not _exporters_have_otlp(environment)):
        return None
    content = environment.get(_CONTENT_VARIABLE) or "metadata"
    if content not in ("metadata", "full"):
        message = f"expected metadata or full in the environment at {_CONTENT_VARIABLE}, got {content!r}"
        raise OperationError("input", message)
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environment.get(variable):
            if protocol != _PROTOCOL:
                message = f"expected {_PROTOCOL} in the environment at {variable}, got {protocol!r}"
                raise OperationError("input", f"{message}; set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL={_PROTOCOL}")
            break
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for header in environment.get(variable, "").split(","):
            # The exporter decodes it; a collector may quote the credentials without their scheme.
            value = unquote(header.partition("=")[2]).strip()
            remember_secret(value)
            remember_secret(value.rpartition(" ")[2])
    return Settings(endpoint, content == "full")


def _endpoint(text: str) -> str:
    """Return the address for spans of a collector's address, which has their path if it has any."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"expected on, off or an address such as http://localhost:4318 in the environment at {_VARIABLE}"
        raise OperationError("input", message)
    return text if parts.path.strip("/") else f"{text.rstrip('/')}{_PATH}"


def _exporters_have_otlp(environment: Mapping[str, str]) -> bool:
    """Return whether the variable that names exporters wants this one; it does if it says nothing."""
    variable = "OTEL_TRACES_EXPORTER"
    names = [name.strip().lower() for name in environment.get(variable, "").split(",") if name.strip()]
    if not names or {"otlp", "otlp_proto_http"} & set(names):
        return True
    if names == ["none"]:
        return False
    message = f"expected otlp or none in the environment at {variable}, got {environment[variable]!r}"
    raise OperationError("input", f"{message}; or give the address of a collector at {_VARIABLE}")


class Exporter:
    """Sends spans to a collector, from a thread of its own.

    Args:
        settings: Where to, and what of them.
        identity: Returns the attributes of this process.
        sampler: Decides which traces are exported; ``None``: those that their callers record, and all others.
    """

    def __init__(self, settings: Settings, identity: Callable[[], Mapping[str, Any]], sampler: Any = None) -> None:
        self.has_texts = settings.has_texts
        self._sampler = sampler
        self._endpoint = settings.endpoint
        self._identity = identity
        self._waiting: deque[tuple[Finished, int]] = deque()
        self._characters = 0
        self._dropped = 0
        self._some = threading.Event()
        self._enough = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def sampled(self, trace: Traceparent, name: str, *, is_root: bool) -> Traceparent:
        """Return the trace with the flags that say whether spans of it are exported.

        Args:
            trace: The trace, and the span around the call.
            name: The name of the operation.
            is_root: Whether nobody has decided about the trace: the call, or its own caller's side, begins it.
        """
        if self._sampler is None:
            return trace
        from opentelemetry.context import Context
        from opentelemetry.sdk.trace.sampling import Decision

        around = Context() if is_root else application_context.around(trace)
        decision = self._sampler.should_sample(around, int(trace.trace_id, 16), name).decision
        flags = int(trace.flags, 16) & ~1 | (decision is Decision.RECORD_AND_SAMPLE)
        return trace._replace(flags=f"{flags:02x}")

    def put(self, span: Finished) -> None:
        """Take a span to be sent; never waits, and drops the span if too many wait already."""
        characters = _characters(span.attributes) if self.has_texts else 0
        with self._lock:
            if len(self._waiting) >= MAX_WAITING or self._characters + characters > MAX_CHARACTERS:
                self._dropped += 1
                return
            self._characters += characters
            self._waiting.append((span, characters))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
                self._thread.start()
        if not self._some.is_set():
            self._some.set()
        if len(self._waiting) >= _BATCH:
            self._enough.set()

    def stop(self) -> None:
        """Send what is left, for a quarter of a second at most."""
        self._is_stopping = True
        self._some.set()
        self._enough.set()
        if self._thread is not None:
            self._thread.join(_FLUSH_S)

    def _run(self) -> None:
        sender = _Sender(self._endpoint, self._identity(), has_texts=self.has_texts)
        while True:
            self._some.wait()
            if not self._is_stopping:
                self._enough.wait(_DELAY_S)
            self._some.clear()
            self._enough.clear()
            while taken := self._taken():
                sender.send(*taken)
            if self._is_stopping:
                sender.close()
                return

    def _taken(self) -> tuple[list[Finished], int] | None:
        """Return the spans to be sent next, and how many have been dropped since; ``None``: there are none."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if not batch:
                return None
            self._characters -= sum(characters for _, characters in batch)
            dropped, self._dropped = self._dropped, 0
        return [span for span, _ in batch], dropped


class _Sender:
    """Names, encodes and sends spans, and logs once when that begins to fail, and once when it does no more."""

    def __init__(self, endpoint: str | None, identity: Mapping[str, Any], *, has_texts: bool) -> None:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        _suppress_instrumentation()
        self._said = _SaidInThisThread()
        self._log = logging.getLogger(trace_exporter.__name__)
        self._log.addFilter(self._said)
        self._client = trace_exporter.OTLPSpanExporter(endpoint=endpoint)
        resource = Resource.create({**identity})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "dspex"}))
        self._resource = resource
        self._scope = InstrumentationScope("erlport_bridge")
        self._has_texts = has_texts
        self._lost = 0
        self._is_failing = False

    def send(self, batch: list[Finished], dropped: int) -> None:
        """Send spans; what cannot be sent is counted as lost, as those that were dropped before."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._lost += dropped
        self._said.first = None
        try:
            is_sent = self._client.export(list(map(self._readable, batch))) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever it is, the next spans may be sent
            is_sent, self._said.first = False, f"{type(error).__name__}: {error}"
        if not is_sent:
            self._lost += len(batch)
            if not self._is_failing:
                reason = redact(self._said.first or "no reason is known")[:500]
                _log.warning("spans cannot be exported, and are dropped until they can: %s", reason)
            self._is_failing = True
        elif self._is_failing or self._lost:
            _log.warning("spans are exported again; %d were dropped", self._lost)
            self._lost, self._is_failing = 0, False

    def close(self) -> None:
        """Leave the client's log as it was: another thread may get the number of this one."""
        self._log.removeFilter(self._said)

    def _readable(self, span: Finished) -> Any:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        found = described(span.kind, span.name, span.attributes, has_texts=self._has_texts)
        trace_id, sampled = int(span.trace_id, 16), TraceFlags(TraceFlags.SAMPLED)
        parent, status = None, Status()
        if span.parent is not None:
            parent = SpanContext(trace_id, int(span.parent, 16), is_remote=span.is_parent_remote, trace_flags=sampled)
        if span.error_kind is not None:
            found.attributes["error.type"] = span.error_kind
            status = Status(StatusCode.ERROR, span.message if self._has_texts else None)
        return ReadableSpan(
            name=found.name,
            context=SpanContext(trace_id, int(span.id, 16), is_remote=False, trace_flags=sampled),
            parent=parent,
            resource=self._resource,
            attributes=found.attributes,
            events=[Event(name, given, span.start_ns + 1000 * after_us) for name, after_us, given in found.events],
            kind=SpanKind[found.kind],
            status=status,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


class _SaidInThisThread(logging.Filter):
    """Keeps what the client logs in the thread that made this, instead of logging it once for each attempt."""

    def __init__(self) -> None:
        super().__init__()
        # Not its number, which a later thread may get.
        self._thread = threading.current_thread()
        self.first: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.current_thread() is not self._thread:
            return True
        # The later ones say only that it has given up.
        self.first = self.first or record.getMessage()
        return False


def _suppress_instrumentation() -> None:
    """Have no span made of the requests that export spans, if the application has the client of HTTP instrumented."""
    from opentelemetry import context

    key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
    context.attach(context.set_value(key, True))


def _characters(attributes: Mapping[str, Any]) -> int:
    return sum(_size(attributes[name]) for name in TEXTS if name in attributes)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


_exporter: Exporter | None = None


def prepare(identity: Callable[[], Mapping[str, Any]]) -> None:
    """Read the environment, and load what the export needs, if it wants one; starts no thread.

    Args:
        identity: Returns the attributes of this process; called when the first span is sent.

    Raises:
        OperationError: Of kind ``input``, or ``missing_dependency``: the packages of OpenTelemetry are not installed.
    """
    global _exporter
    settings, sampler = read_settings(os.environ), None
    if settings is not None:
        try:
            import opentelemetry.sdk.trace  # noqa: F401
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            # Imports what it needs, and reads the standard variables, before there are workers and calls.
            OTLPSpanExporter(endpoint=settings.endpoint)
            sampler = _sampler()
        except ImportError as error:
            raise MissingPackageError("exporting spans by OTLP", error.name, _PACKAGES) from None
    _exporter = None if settings is None else Exporter(settings, identity, sampler)


def _sampler() -> Any:
    """Return the sampler that the standard variables name; ``None``: they name none."""
    if not os.environ.get(_SAMPLER_VARIABLE, "").strip():
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    # The SDK reads the variables. Its own resource would be found by threads.
    return TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False).sampler


def stop() -> None:
    """Send what is left, for a quarter of a second at most; to be called when the process ends."""
    if _exporter is not None:
        _exporter.stop()


def exporter() -> Exporter | None:
    """Return what exports the spans of the current context; ``None``: nothing does."""
    return _exporter if is_wanted.get() else None
