"""Read the options by which a call wants its spans back: ``trace`` and ``traceparent``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.programs.options import Option, TextOption, wrong
from erlport_bridge.programs.text import text_of
from erlport_bridge.tracing import Recording, Traceparent, new_trace, read_traceparent

_METADATA: Final = "metadata"
_MAX_OPTIONS: Final = 1_000


class _TraceOption(Option):
    """``true`` for all spans with their texts, ``metadata`` for the spans without texts, ``false`` for none."""

    def _read(self, value: object, path: str) -> str | bool:
        if isinstance(value, bool):
            return value
        if text_of(value) == _METADATA:
            return _METADATA
        raise wrong(f'true, false or "{_METADATA}"', value, path)

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


def wanted_recording(given: Any) -> Recording | None:
    """Return the recording for a call with these options; ``None``: none is wanted.

    The options are not checked yet: what is wrong with them is an error of the call, which may be recorded already.
    """
    if not isinstance(given, Mapping):
        # A keyword list, as Erlang callers may write it.
        if not isinstance(given, list) or not 0 < len(given) <= _MAX_OPTIONS:
            return None
        given = {
            pair[0]: pair[1] for pair in given if type(pair) is tuple and len(pair) == 2 and isinstance(pair[0], str)
        }
    wanted = given.get("trace")
    if wanted is None or wanted is False or not (wanted is True or text_of(wanted) == _METADATA):
        return None
    return Recording(_traceparent(given), has_texts=wanted is True)


def _traceparent(given: Mapping[Any, Any]) -> Traceparent:
    text = text_of(given.get("traceparent"))
    return (read_traceparent(text) if text else None) or new_trace()
