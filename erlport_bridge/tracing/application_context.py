"""Make a call's span the current one of OpenTelemetry, so that spans of the application's Python code hang below it.

Only if something in this process uses ``opentelemetry-api``: the export of spans, or the application.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from erlport_bridge.tracing.traceparent import Traceparent

_API: Final = "opentelemetry.trace"


def is_used() -> bool:
    """Return whether this process has loaded OpenTelemetry's interface."""
    return _API in sys.modules


def entered(traceparent: Traceparent, span_id: str) -> Any:
    """Make a span the current one; return what :func:`left` takes."""
    return _attached(traceparent, span_id, is_remote=False)


def follow(traceparent: Traceparent | None) -> None:
    """Make the caller's span the current one, for the rest of the current context."""
    if traceparent is not None and traceparent.span_id is not None:
        _attached(traceparent, traceparent.span_id, is_remote=True)


def around(traceparent: Traceparent) -> Any:
    """Return a context in which the caller's span is the current one."""
    from opentelemetry.context import Context

    return (
        Context()
        if traceparent.span_id is None
        else _within(traceparent, traceparent.span_id, Context(), is_remote=True)
    )


def left(before: Any) -> None:
    """Make the span current again that was so before."""
    from opentelemetry import context

    # Not `detach`, which fails in another context, where a generator may be closed.
    context.attach(before)


def _attached(traceparent: Traceparent, span_id: str, *, is_remote: bool) -> Any:
    from opentelemetry import context

    before = context.get_current()
    context.attach(_within(traceparent, span_id, before, is_remote=is_remote))
    return before


def _within(traceparent: Traceparent, span_id: str, outer: Any, *, is_remote: bool) -> Any:
    from opentelemetry import trace

    flags = trace.TraceFlags(int(traceparent.flags, 16))
    named = trace.SpanContext(int(traceparent.trace_id, 16), int(span_id, 16), is_remote=is_remote, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(named), outer)
