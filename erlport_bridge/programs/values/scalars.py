"""Read terms as values of scalar types: text, numbers, booleans, ``nil``, dates and times."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

from erlport_bridge.programs.text import neutral, text_of
from erlport_bridge.term import Atom

#: Returned by a reader for a term that is not a value of its type, since ``None`` can be a value.
NO: Final[Any] = object()

#: 4,300 decimal digits: Python converts no longer integer to text, so a prompt cannot contain one.
MAX_INTEGER_BITS: Final = 14_284


def _text(value: object, lenient: bool) -> Any:
    text = text_of(value) if lenient or isinstance(value, str) else None
    return NO if text is None else neutral(text)


def _integer(value: object, lenient: bool) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return NO
    return value if value.bit_length() <= MAX_INTEGER_BITS else NO


def _float(value: object, lenient: bool) -> Any:
    if isinstance(value, float):
        return value
    if isinstance(value, Atom) and value in _NON_FINITE:
        return _NON_FINITE[value]
    if not lenient or isinstance(value, bool) or not isinstance(value, int):
        return NO
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return NO


# Erlang has no such floats, so they are atoms in both directions.
_NON_FINITE: Final = {"nan": float("nan"), "infinity": float("inf"), "neg_infinity": float("-inf")}


def _boolean(value: object, lenient: bool) -> Any:
    return value if isinstance(value, bool) else NO


def _nil(value: object, lenient: bool) -> Any:
    return None if value is None else NO


def _decimal(value: object, lenient: bool) -> Any:
    if isinstance(value, Decimal):
        return value
    if not lenient or isinstance(value, bool) or not isinstance(value, int | str):
        return NO
    try:
        return Decimal(value)
    except InvalidOperation:
        return NO


_Moment = TypeVar("_Moment", datetime.datetime, datetime.date, datetime.time)


def _moment(cls: type[_Moment], *, exclude: type | None = None) -> Callable[[object, bool], Any]:
    def read(value: object, lenient: bool) -> Any:
        if isinstance(value, cls) and not (exclude and isinstance(value, exclude)):
            return value
        if not lenient or not isinstance(value, str):
            return NO
        try:
            # Before Python 3.11, fromisoformat does not accept "Z", which Elixir writes for UTC.
            return cls.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
        except ValueError:
            return NO

    return read


# How values are written that have more than one form.
_FORMS: Final[Mapping[Any, str]] = {
    Decimal: 'text such as "1.5", an integer, or a Decimal',
    datetime.datetime: '~U[2024-12-31 07:08:09Z] or "2024-12-31T07:08:09Z"',
    datetime.date: '~D[2024-12-31] or "2024-12-31"',
    datetime.time: '~T[07:08:09] or "07:08:09"',
}


def remedy(annotation: Any, value: object) -> str:
    """Return how a value of a scalar type is written, behind the error about ``value``; empty: as the error says."""
    if annotation is Decimal and isinstance(value, float):
        return f'; a float is not exact: write "{value}", or a Decimal'
    if annotation is float and isinstance(value, Decimal):
        return "; Decimal.to_float/1 makes a float of it"
    if annotation is int and isinstance(value, Decimal):
        return "; Decimal.to_integer/1 makes an integer of it"
    return f"; write {_FORMS[annotation]}" if annotation in _FORMS else ""


#: Annotation -> its name in errors, and the function that reads a term for it: ``(term, lenient) -> value`` or
#: :data:`NO`. A lenient reader accepts a charlist as text, an integer as a float, and text as a date or a ``Decimal``.
SCALARS: Final[Mapping[Any, tuple[str, Callable[[object, bool], Any]]]] = {
    str: ("a string", _text),
    int: ("an integer", _integer),
    float: ("a number", _float),
    bool: ("true or false", _boolean),
    type(None): ("nil", _nil),
    Decimal: ("a decimal number", _decimal),
    datetime.datetime: ("a date and time", _moment(datetime.datetime)),
    datetime.date: ("a date", _moment(datetime.date, exclude=datetime.datetime)),  # datetime is a subclass of date
    datetime.time: ("a time of day", _moment(datetime.time)),
}
