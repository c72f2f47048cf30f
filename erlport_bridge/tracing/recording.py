"""Record spans in a context variable, so that each has the right parent in tasks, threads and batches.

A place is where a span that begins now would stand: the recording, the span around it, and labels. Tasks and threads
inherit the place of their creator, so spans that run at the same time never mix. Spans of one recording may begin and
end in any thread.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Mapping
from contextvars import ContextVar
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

from erlport_bridge.errors import kind_of, message_of
from erlport_bridge.tracing import application_context
from erlport_bridge.tracing.conventions import TEXTS
from erlport_bridge.tracing.exporting import Exporter, Finished
from erlport_bridge.tracing.texts import Texts
from erlport_bridge.tracing.texts import name as short_name
from erlport_bridge.tracing.traceparent import Traceparent, first_span_number

#: The most spans of one call; the others are counted.
MAX_SPANS: Final = 10_000

#: What an answer has of the spans: all with their texts, all without, or nothing.
Told = Literal["texts", "spans", "nothing"]

_HIDDEN: Final = "[redacted]"
_NO_LABELS: Final[Mapping[str, Any]] = {}
_MAX_MESSAGE: Final = 500

_here: ContextVar[Place | None] = ContextVar("place_in_trace", default=None)
_nothing: Final[contextlib.nullcontext[None]] = contextlib.nullcontext()
_start: Final = itemgetter("start_us")


class Span:
    """One span. As a context manager it is the current place of its body.

    A call pays for each step of a span that its events need, so a span is also the place of what begins in it, and its
    id is written when somebody reads it.

    Args:
        recording: The recording.
        around: Where it stands; ``None``: below the span around the call.
        kind: What it is about.
        name: Its name.
        attributes: What is known of it already; modified.
        started_at: When it began, by the clock ``time.monotonic``; ``None``: when it is entered.

    Attributes:
        recording: The recording.
        labels: Attributes of all spans that begin here.
        attributes: What is known of it, as terms by name.
    """

    __slots__ = (
        "_around",
        "_before",
        "_ended_ns",
        "_error",
        "_kind",
        "_name",
        "_number",
        "_started_ns",
        "_status",
        "attributes",
        "labels",
        "recording",
    )

    def __init__(
        self,
        recording: Recording,
        around: Place | None,
        kind: str,
        name: str,
        attributes: dict[str, Any],
        started_at: float | None = None,
    ) -> None:
        self.recording = recording
        self._around = around
        self._number = next(recording.numbers)
        self._kind = kind
        self._name = name
        self._started_ns = 0 if started_at is None else int(started_at * 1e9)
        self._ended_ns: int | None = None
        self._status = "ok"
        self._error: dict[str, str] | None = None
        labels = _NO_LABELS if around is None else around.labels
        self.labels: Mapping[str, Any] = labels
        self.attributes = {**labels, **attributes} if labels else attributes

    def __enter__(self) -> Span:
        if not self._started_ns:
            self._started_ns = time.monotonic_ns()
        recording = self.recording
        recording.begun(self, self._number)
        _here.set(self)
        # A span that is not exported is no parent of the application's spans.
        self._before = (
            None if recording.exporter is None else application_context.entered(recording.traceparent, self.id)
        )
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        # Not `reset`, which fails in another context, where a generator of the body may be closed.
        _here.set(self._around)
        if self._before is not None:
            application_context.left(self._before)
        self.end(error)

    @property
    def span(self) -> Span:
        """Return the span of this place."""
        return self

    @property
    def id(self) -> str:
        """Return its id, 16 hexadecimal digits."""
        return f"{self._number:016x}"

    @property
    def parent(self) -> str | None:
        """Return the id of the span around it; ``None``: nothing is around the call."""
        around = None if self._around is None else self._around.span
        return self.recording.traceparent.span_id if around is None else around.id

    @property
    def texts(self) -> Texts | None:
        """Return what keeps the texts of the trace; ``None``: they are not wanted."""
        return self.recording.texts

    @property
    def is_redacted(self) -> bool:
        """Return whether only texts may be kept that the application has redacted."""
        return self.recording.is_redacted

    def set(self, /, **attributes: Any) -> None:
        """Set attributes; ``None`` leaves one out."""
        for name, value in attributes.items():
            if value is not None:
                self.attributes[name] = value

    def keep(self, **values: Any) -> None:
        """Keep texts, or values as JSON, if the trace has texts that the application does not redact."""
        texts = self.recording.texts
        if texts is not None and not self.recording.is_redacted:
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
        return _HIDDEN if self.recording.is_redacted else message

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
        if self.recording.exporter is not None:
            self.recording.ended(self, self._number)

    def passed(self, error: BaseException | None) -> None:
        """Record the span, which has a ``started_at``, without a body, and end it."""
        self.recording.begun(self, self._number)
        self.end(error)

    def cut(self, now_ns: int) -> None:
        """End a span that has not ended when its call has, as cancelled."""
        self._status = "cancelled"
        self._ended_ns = now_ns
        if self.recording.exporter is not None:
            self.recording.ended(self, self._number)

    def finished(self, offset_ns: int) -> Finished:
        """Return the span, which has ended, for its export."""
        recording, error, ended_ns = self.recording, self._error, self._ended_ns or self._started_ns
        error_kind = error["kind"] if error else None
        return Finished(
            trace_id=recording.traceparent.trace_id,
            id=self.id,
            parent=self.parent,
            is_parent_remote=self.parent == recording.traceparent.span_id,
            kind=self._kind,
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
        ended_ns, attributes = self._ended_ns, self.attributes
        return {
            "id": f"{self._number:016x}",
            "parent": self.parent,
            "kind": self._kind,
            "name": short_name(self._name),
            "start_us": (self._started_ns + offset_ns) // 1000,
            "duration_us": ((now_ns if ended_ns is None else ended_ns) - self._started_ns) // 1000,
            "status": "cancelled" if ended_ns is None else self._status,
            "error": self._error,
            # A copy: a thread that cannot be stopped may still set some.
            "attributes": dict(attributes)
            if has_texts or TEXTS.isdisjoint(attributes)
            else {name: value for name, value in attributes.items() if name not in TEXTS},
        }


class _Labelled(NamedTuple):
    """A place whose spans have further labels; the attributes are those of :class:`Span`."""

    recording: Recording
    span: Span | None
    labels: Mapping[str, Any]


#: Where a span that begins now would stand.
Place = Span | _Labelled


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
        numbers: The numbers of spans, of which their ids are made.
        is_told: Whether the answer to the call has the spans.
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
        self.is_told = tells != "nothing"
        self._tells = tells
        self._called_at_us = called_at_us
        self._spans: list[Span] = []
        self._open: dict[int, Span] = {}
        self._parts: list[Recording] = []
        self._is_over = False
        self._within: Span | None = None
        self._counts = _Counts()
        # Of all parts. Threads that take one at the same time get different ones.
        self.numbers = itertools.count(first_span_number())
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

    def begun(self, span: Span, number: int) -> None:
        """Record a span that has begun."""
        if self._is_over:
            return
        counts = self._counts
        if counts.begun >= MAX_SPANS:
            counts.dropped += 1
            return
        counts.begun += 1
        if self.is_told:
            self._spans.append(span)
        if self.exporter is not None:
            self._open[number] = span

    def ended(self, span: Span, number: int) -> None:
        """Export a span that has ended, unless it was dropped."""
        if self._open.pop(number, None) is not None and self.exporter is not None:
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
        for span in (*self._open.values(), *self._spans):
            if span._ended_ns is None:
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
        terms.sort(key=_start)
        return terms

    def term(self) -> dict[str, Any]:
        """Return the recording as a term: the id of the trace, its spans, and how many were dropped."""
        return {"id": self.traceparent.trace_id, "spans": self.take(), "dropped": self._counts.dropped}


class _Counts:
    """How many spans a call has, with all its parts."""

    __slots__ = ("begun", "dropped")

    def __init__(self) -> None:
        self.begun = 0
        self.dropped = 0


def record(recording: Recording, kind: str, name: str, started_at: float | None = None, **attributes: Any) -> Span:
    """Record the body, and what runs on its behalf, in ``recording``, as a span of the current place."""
    return Span(recording, _here.get(), kind, name, attributes, started_at)


def span(kind: str, name: str, **attributes: Any) -> contextlib.AbstractContextManager[Span | None]:
    """Return a context manager whose body is a span; it yields the span, or ``None`` if nothing is recorded."""
    place = _here.get()
    return _nothing if place is None else Span(place.recording, place, kind, name, attributes)


def passed(kind: str, name: str, started_at: float, error: BaseException | None = None) -> None:
    """Record a span that began at ``started_at``, by the clock ``time.monotonic``, and ends now, without a body."""
    place = _here.get()
    if place is not None:
        Span(place.recording, place, kind, name, {}, started_at).passed(error)


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
    _here.set(_Labelled(place.recording, place.span, {**place.labels, **labels}))
    try:
        yield
    finally:
        _here.set(place)


def labelled(**labels: Any) -> contextlib.AbstractContextManager[None]:
    """Return a context manager whose body gives these attributes to every span that begins in it."""
    place = _here.get()
    return _nothing if place is None else _labelled(place, labels)
