"""Record spans in a context variable, so that each has the right parent in tasks, threads and batches.

A place is where a span that begins now would stand: the recording, the span around it, and labels. Tasks and threads
inherit the place of their creator, so spans that run at the same time never mix. Spans of one recording may begin and
end in any thread.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

from erlport_bridge.errors import kind_of, message_of
from erlport_bridge.tracing import application_context
from erlport_bridge.tracing.conventions import TEXTS
from erlport_bridge.tracing.exporting import Exporter, Finished
from erlport_bridge.tracing.texts import Texts
from erlport_bridge.tracing.texts import name as short_name
from erlport_bridge.tracing.traceparent import Traceparent, new_span_id

#: The most spans of one call; the others are counted.
MAX_SPANS: Final = 10_000

#: What an answer has of the spans: all with their texts, all without, or nothing.
Told = Literal["texts", "spans", "nothing"]

_HIDDEN: Final = "[redacted]"
_NO_LABELS: Final[Mapping[str, Any]] = {}
_MAX_MESSAGE: Final = 500

_here: ContextVar[Place | None] = ContextVar("place_in_trace", default=None)
_nothing: Final[contextlib.nullcontext[None]] = contextlib.nullcontext()


class Span:
    """One span.

    Attributes:
        id: 16 hexadecimal digits.
        attributes: What is known of it, as terms by name.
    """

    __slots__ = (
        "_ended_ns",
        "_error",
        "_name",
        "_parent",
        "_recording",
        "_started_ns",
        "_status",
        "attributes",
        "id",
        "kind",
    )

    def __init__(
        self,
        recording: Recording,
        parent: str | None,
        kind: str,
        name: str,
        attributes: dict[str, Any],
        started_ns: int,
    ) -> None:
        self.id = new_span_id()
        self._recording = recording
        self._parent = parent
        self.kind = kind
        self._name = name
        self.attributes = attributes
        self._started_ns = started_ns
        self._ended_ns: int | None = None
        self._status = "ok"
        self._error: dict[str, str] | None = None

    @property
    def texts(self) -> Texts | None:
        """Return what keeps the texts of the trace; ``None``: they are not wanted."""
        return self._recording.texts

    @property
    def is_redacted(self) -> bool:
        """Return whether only texts may be kept that the application has redacted."""
        return self._recording.is_redacted

    def set(self, /, **attributes: Any) -> None:
        """Set attributes; ``None`` leaves one out."""
        for name, value in attributes.items():
            if value is not None:
                self.attributes[name] = value

    def keep(self, **values: Any) -> None:
        """Keep texts, or values as JSON, if the trace has texts that the application does not redact."""
        texts = self._recording.texts
        if texts is not None and not self._recording.is_redacted:
            self.set(**{name: texts.keep(value) for name, value in values.items()})

    def since_start_us(self) -> int:
        """Return how long ago the span began, in microseconds."""
        return (time.monotonic_ns() - self._started_ns) // 1000

    def failed(self, kind: str, message: str) -> None:
        """Record that what the span is about failed, although nothing is raised."""
        self._status = "error"
        self._error = {"kind": kind, "message": self.shown(message)}

    def shown(self, message: str) -> str:
        """Return what is told of the message of an error, which may quote prompts, answers and tools."""
        return _HIDDEN if self._recording.is_redacted else message

    def end(self, error: BaseException | None = None) -> None:
        """End the span, with the exception that ended it; only the first end counts."""
        if self._ended_ns is not None:
            return
        if error is not None:
            kind = kind_of(error)
            self.failed(kind, message_of(error)[:_MAX_MESSAGE])
            if kind == "cancelled":
                self._status = "cancelled"
        self._ended_ns = time.monotonic_ns()
        self._recording.ended(self)

    def cut(self, now_ns: int) -> None:
        """End a span that has not ended when its call has, as cancelled."""
        if self._ended_ns is None:
            self._status = "cancelled"
            self._ended_ns = now_ns
            self._recording.ended(self)

    def finished(self, offset_ns: int) -> Finished:
        """Return the span, which has ended, for its export."""
        recording, error, ended_ns = self._recording, self._error, self._ended_ns or self._started_ns
        error_kind = error["kind"] if error else None
        return Finished(
            trace_id=recording.traceparent.trace_id,
            id=self.id,
            parent=self._parent,
            is_parent_remote=self._parent == recording.traceparent.span_id,
            kind=self.kind,
            name=short_name(self._name),
            start_ns=self._started_ns + offset_ns,
            end_ns=ended_ns + offset_ns,
            error_kind="cancelled" if self._status == "cancelled" else error_kind,
            message=error["message"] if error else None,
            # A copy: a thread that cannot be stopped may still set some.
            attributes=dict(self.attributes),
        )

    def wait_before(self, since_us: int, offset_ns: int) -> Finished:
        """Return the span of the time before this one; Elixir gives it the same id in its traces."""
        id_ = f"{int(self.id, 16) ^ 0xFFFF_FFFF_FFFF_FFFF:016x}"
        start_ns, end_ns = since_us * 1000, self._started_ns + offset_ns
        return self.finished(offset_ns)._replace(
            id=id_, kind="queue", name="queue", start_ns=start_ns, end_ns=max(start_ns, end_ns), attributes={}
        )

    def term(self, now_ns: int, offset_ns: int, *, has_texts: bool) -> dict[str, Any]:
        """Return the span as a term; one that has not ended is cancelled at ``now_ns``."""
        ended_ns = self._ended_ns
        attributes = dict(self.attributes)
        return {
            "id": self.id,
            "parent": self._parent,
            "kind": self.kind,
            "name": short_name(self._name),
            "start_us": (self._started_ns + offset_ns) // 1000,
            "duration_us": ((now_ns if ended_ns is None else ended_ns) - self._started_ns) // 1000,
            "status": "cancelled" if ended_ns is None else self._status,
            "error": self._error,
            "attributes": attributes
            if has_texts
            else {name: value for name, value in attributes.items() if name not in TEXTS},
        }


class Place(NamedTuple):
    """Where a span that begins now would stand.

    Attributes:
        recording: The recording.
        span: The span around it.
        labels: Attributes of all spans that begin here.
    """

    recording: Recording
    span: Span | None
    labels: Mapping[str, Any]


class Recording:
    """The spans of one call, or of one item of it.

    Args:
        traceparent: The trace, and the span around the call.
        tells: What the answer to the call has of the spans.
        exporter: Gets each span when it has ended; ``None``: spans are not exported.
        is_redacted: Whether only texts may be kept that the application has redacted.
        called_at_us: When the caller made the call, in microseconds of Unix time.

    Attributes:
        texts: Keeps prompts, answers and the like; ``None``: they are not wanted.
    """

    def __init__(
        self,
        traceparent: Traceparent,
        *,
        tells: Told = "spans",
        exporter: Exporter | None = None,
        is_redacted: bool = False,
        called_at_us: int | None = None,
    ) -> None:
        self.traceparent = traceparent
        self.is_redacted = is_redacted
        self.texts = Texts() if tells == "texts" or (exporter is not None and exporter.has_texts) else None
        self.exporter = exporter
        self._tells = tells
        self._called_at_us = called_at_us
        self._spans: list[Span] = []
        self._open: dict[str, Span] = {}
        self._parts: list[Recording] = []
        self._is_over = False
        self._within: Span | None = None
        self._counts = _Counts()
        # The one clock: the system's time now, and differences of the monotonic clock.
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def part(self, within: Span | None) -> Recording:
        """Return a recording for a part of the call, with the same trace, clock and limits, and spans of its own.

        ``within`` is the span around the part, which is told with it, with its duration until then.
        """
        part = copy.copy(self)
        part._within = within
        part._spans, part._open, part._parts = [], {}, []
        self._parts.append(part)
        return part

    def export_wait(self, span: Span) -> None:
        """Export how long the call waited for this process: from the caller's ``called_at_us`` until ``span``."""
        if self.exporter is not None and self._called_at_us is not None:
            self.exporter.put(span.wait_before(self._called_at_us, self._offset_ns))

    @property
    def is_told(self) -> bool:
        """Return whether the answer to the call has the spans."""
        return self._tells != "nothing"

    def begin(
        self, place: Place | None, kind: str, name: str, attributes: dict[str, Any], started_at: float | None = None
    ) -> Span:
        """Begin a span at a place; ``None``: below the span around the call.

        Args:
            place: Where it stands.
            kind: What it is about.
            name: Its name.
            attributes: What is known of it already.
            started_at: When it began, by the clock ``time.monotonic``, if not now.
        """
        parent = self.traceparent.span_id if place is None or place.span is None else place.span.id
        started_ns = time.monotonic_ns() if started_at is None else int(started_at * 1e9)
        span = Span(self, parent, kind, name, attributes, started_ns)
        if self._is_over:
            return span
        if self._counts.begun < MAX_SPANS:
            self._counts.begun += 1
            self._open[span.id] = span
            if self.is_told:
                self._spans.append(span)
        else:
            self._counts.dropped += 1
        return span

    def ended(self, span: Span) -> None:
        """Export a span that has ended, unless it was dropped."""
        if self._open.pop(span.id, None) is not None and self.exporter is not None:
            self.exporter.put(span.finished(self._offset_ns))

    def close(self) -> None:
        """End all spans that have not ended, as cancelled, those of parts too; later ones are not recorded."""
        if self._is_over:
            return
        self._is_over = True
        now_ns = time.monotonic_ns()
        for part in self._parts:
            part.close()
        self._parts.clear()
        for span in tuple(self._open.values()):
            span.cut(now_ns)

    def take(self) -> list[dict[str, Any]]:
        """End the recording, and return its spans as terms, in the order in which they began."""
        self.close()
        now_ns = time.monotonic_ns()
        spans, self._spans = self._spans, []
        has_texts = self._tells == "texts"
        terms = [span.term(now_ns, self._offset_ns, has_texts=has_texts) for span in spans]
        if self._within is not None:
            around = self._within.term(now_ns, self._offset_ns, has_texts=has_texts)
            terms.append({**around, "status": "ok"} if around["status"] == "cancelled" else around)
        return sorted(terms, key=_start)

    def term(self) -> dict[str, Any]:
        """Return the recording as a term: the id of the trace, its spans, and how many were dropped."""
        return {"id": self.traceparent.trace_id, "spans": self.take(), "dropped": self._counts.dropped}


class _Counts:
    """How many spans a call has, with all its parts."""

    __slots__ = ("begun", "dropped")

    def __init__(self) -> None:
        self.begun = 0
        self.dropped = 0


class _Entered:
    """A context manager for a span of the current place; its body runs within the span."""

    __slots__ = ("_attributes", "_before", "_kind", "_name", "_place", "_recording", "_started_at", "span")

    def __init__(
        self,
        recording: Recording,
        place: Place | None,
        kind: str,
        name: str,
        attributes: dict[str, Any],
        started_at: float | None = None,
    ) -> None:
        self._recording = recording
        self._place = place
        self._kind = kind
        self._name = name
        self._attributes = attributes
        self._started_at = started_at

    def __enter__(self) -> Span:
        place = self._place
        labels = _NO_LABELS if place is None else place.labels
        attributes = {**labels, **self._attributes} if labels else self._attributes
        self.span = self._recording.begin(place, self._kind, self._name, attributes, self._started_at)
        _here.set(Place(self._recording, self.span, labels))
        # A span that is not exported is no parent of the application's spans.
        exported = self._recording.exporter is not None
        self._before = application_context.entered(self._recording.traceparent, self.span.id) if exported else None
        return self.span

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        # Not `reset`, which fails in another context, where a generator of the body may be closed.
        _here.set(self._place)
        if self._before is not None:
            application_context.left(self._before)
        self.span.end(error)


def record(
    recording: Recording, kind: str, name: str, started_at: float | None = None, **attributes: Any
) -> contextlib.AbstractContextManager[Span]:
    """Record the body, and what runs on its behalf, in ``recording``, as a span of the current place."""
    return _Entered(recording, _here.get(), kind, name, attributes, started_at)


def span(kind: str, name: str, **attributes: Any) -> contextlib.AbstractContextManager[Span | None]:
    """Return a context manager whose body is a span; it yields the span, or ``None`` if nothing is recorded."""
    place = _here.get()
    return _nothing if place is None else _Entered(place.recording, place, kind, name, attributes)


def passed(kind: str, name: str, started_at: float, error: BaseException | None = None) -> None:
    """Record a span that began at ``started_at``, by the clock ``time.monotonic``, and ends now, without a body."""
    place = _here.get()
    if place is not None:
        place.recording.begin(place, kind, name, dict(place.labels), started_at).end(error)


def current() -> Span | None:
    """Return the span in which the current code runs, or ``None``."""
    place = _here.get()
    return None if place is None else place.span


def here() -> Place | None:
    """Return the current place; ``None`` if nothing is recorded."""
    return _here.get()


def enter(place: Place | None) -> None:
    """Set the place of the current context, for code that runs on behalf of a thread with another context."""
    _here.set(place)
    if place is not None and place.span is not None and place.recording.exporter is not None:
        application_context.entered(place.recording.traceparent, place.span.id)


@contextlib.contextmanager
def _labelled(place: Place, labels: Mapping[str, Any]) -> Any:
    _here.set(place._replace(labels={**place.labels, **labels}))
    try:
        yield
    finally:
        _here.set(place)


def labelled(**labels: Any) -> contextlib.AbstractContextManager[None]:
    """Return a context manager whose body gives these attributes to every span that begins in it."""
    place = _here.get()
    return _nothing if place is None else _labelled(place, labels)


def _start(term: dict[str, Any]) -> int:
    start: int = term["start_us"]
    return start
