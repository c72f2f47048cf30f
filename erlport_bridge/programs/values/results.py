"""Convert the results of DSPy programs to terms."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import dspy
import pydantic
from dspy.primitives.prediction import Completions

from erlport_bridge.errors import EncodeError
from erlport_bridge.programs.text import inside
from erlport_bridge.programs.values.inputs import MAX_VALUE_DEPTH
from erlport_bridge.programs.values.media import TYPE_KEY
from erlport_bridge.term import (
    FrozenList,
    FrozenMap,
    ImproperList,
    OtpErlangBinary,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
    shown,
)


def plain(value: object, path: str = "") -> Any:
    """Return a result as a term.

    | value | term |
    | --- | --- |
    | text, bytes, numbers, ``None``, dates, ``Decimal``, ``range``, atoms, pids and the like | the value itself |
    | ``list``, ``tuple``, ``set``, ``dict`` | the same, of terms |
    | ``dspy.Code``, ``dspy.Reasoning`` | its text |
    | other types of DSPy, ``dspy.History`` | map of its fields with ``"$type"``, valid as an input |
    | ``dspy.Prediction``, ``dspy.Example`` | map of its fields |
    | Pydantic model, dataclass | map of its fields, with strings as keys |
    | ``Enum`` | its value |
    | anything else | :class:`EncodeError`; never a pickle, never ``str()`` |

    Args:
        value: The result of a DSPy program, or a part of it.
        path: The path of ``value`` in the result, such as ``["answer"][3]``.

    Raises:
        EncodeError: A value has no term, contains itself, or nests deeper than 100 levels; with its path.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    return value.copy() if kind in _FLAT and _is_flat(value) else _Plain().term(value, path)  # type: ignore[attr-defined]


class _Plain:
    """One traversal of a result, which keeps the set of open containers to find cycles."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def term(self, value: object, path: str) -> Any:
        if type(value) in _FLAT and len(self._open) < MAX_VALUE_DEPTH and _is_flat(value):
            return value.copy()  # type: ignore[attr-defined]
        # Checked before other scalars, since an Enum may also be a str or an int.
        if isinstance(value, enum.Enum):
            return self.term(value.value, path)
        if value is None or isinstance(value, _TERMS):
            return value
        if id(value) in self._open:
            raise EncodeError("cannot encode a value that contains itself", path)
        if len(self._open) >= MAX_VALUE_DEPTH:
            raise EncodeError(f"cannot encode a value nested deeper than {MAX_VALUE_DEPTH} levels", path)
        self._open.add(id(value))
        try:
            return self._composite(value, path)
        finally:
            self._open.remove(id(value))

    def _composite(self, value: object, path: str) -> Any:
        if isinstance(value, dict):
            return self._map(value, path)
        if isinstance(value, list):
            return self._items(value, path)
        if isinstance(value, tuple):
            return tuple(self._items(value, path))
        if isinstance(value, set | frozenset):
            return self._set(value, path)
        if isinstance(value, dspy.Code):
            return value.code
        if isinstance(value, dspy.Reasoning):
            return value.content
        fields = _fields(value)
        if fields is None:
            raise EncodeError(
                f"cannot encode a value of type {type(value).__module__}.{type(value).__qualname__}", path
            )
        return self._map(fields, path)

    def _items(self, items: Iterable[Any], path: str) -> list[Any]:
        return [
            item if type(item) in _SCALARS else self.term(item, f"{path}[{index}]") for index, item in enumerate(items)
        ]

    def _map(self, items: Mapping[Any, Any], path: str) -> dict[Any, Any]:
        terms: dict[Any, Any] = {}
        for key, value in items.items():
            if type(key) is str and type(value) in _SCALARS and key not in terms:  # the common case needs no path
                terms[key] = value
                continue
            key_term = key.value if isinstance(key, enum.Enum) else key
            if key_term is not None and not isinstance(key_term, _TERMS):
                raise EncodeError(f"cannot encode a key of type {type(key).__qualname__}", path)
            if key_term in terms:
                raise EncodeError(f"cannot encode a map with the key {shown(key_term)} twice", path)
            terms[key_term] = self.term(value, inside(path, key_term))
        return terms

    def _set(self, items: Iterable[Any], path: str) -> set[Any]:
        terms = self._items(items, path)
        try:
            return set(terms)
        except TypeError:  # a frozen dataclass is hashable, but the map of its fields is not
            raise EncodeError("cannot encode a set whose elements have fields", path) from None


# Values that the codec encodes directly: of exactly these classes, or of these classes and their subclasses.
_SCALARS: Final = frozenset([str, int, float, bool, type(None)])
_TEXT_ALONE: Final = frozenset([str])
# The usual containers, which may be their own terms.
_FLAT: Final = frozenset([list, dict])
_TERMS: Final = (
    str,
    bytes,
    int,  # and bool
    float,
    datetime.date,  # and datetime
    datetime.time,
    Decimal,
    range,
    FrozenList,
    FrozenMap,
    ImproperList,
    OtpErlangBinary,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
)


def _is_flat(value: Any) -> bool:
    """Return whether a list or map holds nothing but scalars, under keys that are text."""
    if type(value) is list:
        return _SCALARS.issuperset(map(type, value))
    return _TEXT_ALONE.issuperset(map(type, value)) and _SCALARS.issuperset(map(type, value.values()))


def _fields(value: object) -> dict[str, Any] | None:
    """Return the fields of an object whose term is a map, or ``None`` for any other object."""
    if isinstance(value, dspy.Tool):  # without its function
        return {TYPE_KEY: "Tool", "name": value.name, "desc": value.desc, "args": value.args}
    if isinstance(value, dspy.ToolCalls.ToolCall):
        return {"id": value.id, "name": value.name, "args": value.args}
    if isinstance(value, pydantic.BaseModel):
        # Not model_dump(): it returns a line of the prompt for an Image, and drops the ids of ToolCalls.
        fields = {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
        return {TYPE_KEY: type(value).__name__, **fields} if isinstance(value, dspy.Type | dspy.History) else fields
    if isinstance(value, dspy.Example):  # or its subclass Prediction
        return dict(value._store)
    if isinstance(value, Completions):
        return dict(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None
