"""Record the spans of a call: what it did, in which order and for how long, as a tree; export them by OTLP.

A call that wants no trace pays one read of a context variable where a span would begin. Nothing here imports DSPy.
"""

from erlport_bridge.tracing import application_context, exporting
from erlport_bridge.tracing.recording import (
    Recording,
    Span,
    current,
    enter,
    here,
    labelled,
    passed,
    record,
    span,
)
from erlport_bridge.tracing.traceparent import Traceparent, new_trace, read_traceparent

__all__ = [
    "Recording",
    "Span",
    "Traceparent",
    "application_context",
    "current",
    "enter",
    "exporting",
    "here",
    "labelled",
    "new_trace",
    "passed",
    "read_traceparent",
    "record",
    "span",
]
