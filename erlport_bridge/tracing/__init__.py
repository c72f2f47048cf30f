"""Record the spans of a call: what it did, in which order and for how long, as a tree.

A call that wants no trace pays one read of a context variable where a span would begin. Nothing here knows DSPy.
"""

from erlport_bridge.tracing.recording import Recording, Span, current, enter, here, labelled, record, span
from erlport_bridge.tracing.traceparent import Traceparent, new_trace, read_traceparent

__all__ = [
    "Recording",
    "Span",
    "Traceparent",
    "current",
    "enter",
    "here",
    "labelled",
    "new_trace",
    "read_traceparent",
    "record",
    "span",
]
