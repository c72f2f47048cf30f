"""Export spans of the caller's side: ``export_spans``."""

from __future__ import annotations

import re
from typing import Any, Final

from erlport_bridge import worker
from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import shown
from erlport_bridge.tracing import Traceparent, exporting, read_traceparent

_MAX_SPANS: Final = 1_000
_NS: Final = 1_000
# OTLP has nanoseconds of 64 bits.
_MAX_US: Final = 2**62 // _NS


def _identity() -> dict[str, Any]:
    found = worker.identity()
    named = {"process.pid": found["pid"], "dspex.worker": found["worker"], "dspex.node": found["node"]}
    return {name: value for name, value in named.items() if value is not None}


exporting.prepare(_identity)


@operation
async def export_spans(traceparent: object, spans: object) -> int:
    """Export spans of the caller's side by OTLP, such as that of the call itself, as a trace has them.

    ``traceparent`` names their trace, as the header of W3C Trace Context. Answers how many spans are exported: none if
    this process exports no spans, or if the trace is not sampled.
    """
    text = arguments.text(traceparent, "traceparent")
    trace = read_traceparent(text)
    if trace is None:
        raise OperationError("input", f"expected a header of W3C Trace Context at traceparent, got {shown(text)}")
    if not isinstance(spans, list) or len(spans) > _MAX_SPANS:
        raise OperationError("input", f"expected a list of at most {_MAX_SPANS} spans at spans")
    finished = [_finished(span, trace, f"spans[{index}]") for index, span in enumerate(spans)]
    exporter = exporting.exporter()
    if exporter is None or not finished:
        return 0
    is_root = all(span.parent is None for span in finished)
    if not exporter.sampled(trace, finished[0].name, is_root=is_root).is_sampled:
        return 0
    for span in finished:
        exporter.put(span)
    return len(finished)


def _finished(given: object, trace: Traceparent, path: str) -> exporting.Finished:
    span = arguments.options(given, path)
    start_us, duration_us = (_microseconds(span.get(name), f"{path}.{name}") for name in ("start_us", "duration_us"))
    status, error = span.get("status"), arguments.options(span.get("error") or {}, f"{path}.error")
    is_ended = status in ("ok", "error")
    return exporting.Finished(
        trace_id=trace.trace_id,
        id=_id(span.get("id"), f"{path}.id"),
        parent=None if span.get("parent") is None else _id(span["parent"], f"{path}.parent"),
        is_parent_remote=False,
        kind=arguments.text(span.get("kind"), f"{path}.kind", ID_BYTES),
        name=arguments.text(span.get("name"), f"{path}.name", ID_BYTES),
        start_ns=start_us * _NS,
        end_ns=(start_us + duration_us) * _NS,
        error_kind=arguments.optional_text(error.get("kind"), f"{path}.error.kind") if is_ended else "cancelled",
        message=arguments.optional_text(error.get("message"), f"{path}.error.message"),
        attributes=arguments.options(span.get("attributes") or {}, f"{path}.attributes"),
    )


def _id(value: object, path: str) -> str:
    found = arguments.text(value, path)
    if re.fullmatch(r"(?!0{16})[0-9a-f]{16}", found) is None:
        raise OperationError("input", f"expected 16 hexadecimal digits at {path}, got {shown(found)}", path=path)
    return found


def _microseconds(value: object, path: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_US:
        raise OperationError("input", f"expected microseconds at {path}, got {shown(value)}", path=path)
    return value
