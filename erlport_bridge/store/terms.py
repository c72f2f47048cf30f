"""Write terms as JSON text and read them, without loss: what JSON has no form for is an Erlang term in base64.

A text is plain JSON wherever a term is, so that a person can read a store, and each other term is ``{"$term": "…"}``.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any, Final

from erlport_bridge import term
from erlport_bridge.errors import DecodeError, OperationError

_TERM: Final = "$term"
# Python refuses to read much longer numbers from text.
_MAX_BITS: Final = 1_024


def dumps(value: Any) -> str:
    """Return a term as ASCII text; equal terms with keys in the same order give the same text.

    Raises:
        EncodeError: The value has no term.

    >>> dumps({"text": "a", "bytes": bytes([255])})
    '{"text":"a","bytes":{"$term":"g20AAAAB/w=="}}'
    """
    return json.dumps(_json_value(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def loads(text: str) -> Any:
    """Return the term that :func:`dumps` has written.

    Raises:
        OperationError: Of kind ``store``: the text is something else.
    """
    try:
        return json.loads(text, object_hook=_read_object)
    except (ValueError, RecursionError, DecodeError) as error:
        raise OperationError("store", f"a row of the store is unreadable: {error}") from None


def _read_object(found: dict[str, Any]) -> Any:
    if len(found) == 1 and isinstance(written := found.get(_TERM), str):
        return term.decode(base64.b64decode(written, validate=True))
    return found


def _json_value(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None or (kind is int and value.bit_length() < _MAX_BITS):
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is list:
        return [_json_value(item) for item in value]
    if isinstance(value, dict) and _TERM not in value and all(type(key) is str for key in value):
        return {key: _json_value(item) for key, item in value.items()}
    return {_TERM: base64.b64encode(term.encode(value)).decode()}
