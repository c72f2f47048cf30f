"""Read the options by which a call wants its spans back: ``trace`` and ``traceparent``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.programs.options import BooleanOption, IntegerOption, Option, TextOption, wrong
from erlport_bridge.programs.text import arguments, text_of
from erlport_bridge.tracing import (
    Recording,
    application_context,
    exporting,
    new_trace,
    read_traceparent,
)

_METADATA: Final = "metadata"
_MAX_OPTIONS: Final = 1_000
# In nanoseconds it must have 64 bits.
_MAX_US: Final = 2**52
_NONE: Final[Mapping[Any, Any]] = {}


class _TraceOption(Option):
    """``true`` for all spans with their texts, ``metadata`` for the spans without texts, ``false`` for none."""

    def _read(self, value: object, path: str) -> str | bool:
        if isinstance(value, bool):
            return value
        # What Elixir sends for events, without a step more.
        if value == _METADATA or text_of(value) == _METADATA:
            return _METADATA
        raise wrong(f"true, false or :{_METADATA}", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "trace", "choices": [True, False, _METADATA]}


#: Whether the answer has the spans of the call.
TRACE: Final = _TraceOption(
    name="trace", default=False, description='whether the answer has the spans of the call; "metadata": without texts'
)
#: The span of the caller, in a trace of its own.
TRACEPARENT: Final = TextOption(
    name="traceparent", description="the caller's span, as the header of W3C Trace Context; a malformed one is ignored"
)
#: Whether nobody has decided yet if the trace of ``traceparent`` is exported.
BEGINS_TRACE: Final = BooleanOption(
    name="begins_trace",
    default=False,
    is_internal=True,
    description="whether traceparent begins its trace, so that the sampler of the export decides about it",
)
#: When the caller made the call.
CALLED_AT: Final = IntegerOption(
    name="called_at_us",
    is_internal=True,
    minimum=0,
    maximum=_MAX_US,
    description="when the call was made, in microseconds of Unix time; exported spans say how long it waited since",
)


def wanted_recording(name: str, given: Any) -> Recording | None:
    """Return the recording for a call of the operation ``name`` with these options.

    ``None``: neither its caller nor a collector wants the spans. The caller's span becomes the current one of
    OpenTelemetry, if the application uses that. The options are not checked yet: what is wrong with them is an error of
    the call, which may be recorded already.
    """
    given = _as_map(given)
    wanted = given.get("trace")
    # What Elixir sends for events comes first: such a call should pay for no step more.
    is_told = wanted == _METADATA or wanted is True or (bool(wanted) and text_of(wanted) == _METADATA)
    exporter = exporting.exporter()
    has_application = application_context.is_used()
    if not (is_told or exporter is not None or has_application):
        return None
    text = given.get("traceparent")
    if type(text) is not str:
        text = text_of(text)
    caller = read_traceparent(text) if text else None
    trace = caller or new_trace()
    if exporter is not None:
        trace = exporter.sampled(trace, name, is_root=caller is None or given.get("begins_trace") is True)
    if has_application:
        application_context.follow(trace)
    if exporter is not None and not trace.is_sampled:
        exporter = None
    if not is_told and exporter is None:
        return None
    called_at_us = given.get("called_at_us")
    return Recording(
        trace,
        tells="nothing" if not is_told else "texts" if wanted is True else "spans",
        exporter=exporter,
        is_redacted=given.get("redact") is not None,
        called_at_us=called_at_us if type(called_at_us) is int and 0 <= called_at_us <= _MAX_US else None,
    )


def _as_map(given: Any) -> Mapping[Any, Any]:
    """Return options as a map, also a keyword list, as Erlang callers may write it; what is no options is empty."""
    if isinstance(given, arguments.MAPPINGS):
        return given
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_OPTIONS:
        return _NONE
    return {pair[0]: pair[1] for pair in given if type(pair) is tuple and len(pair) == 2 and isinstance(pair[0], str)}
