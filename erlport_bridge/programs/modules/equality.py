"""Compare the values of fields, as checks and named metrics do: by their types, and text by a rule of the caller.

| value | is equal to |
| --- | --- |
| text | text that the rule takes for the same |
| a number | a number of the same value, ``7`` and ``7.0``; text that writes it |
| ``true``, ``false`` | themselves, and their names as text; never ``1`` and ``0`` |
| a date or time | the same date or time; its text (ISO 8601) |
| ``nil`` | ``nil`` |
| a list or tuple | a list or tuple of equal elements in the same order |
| a set | a set or list of equal elements in any order |
| a map or object | a map with the same keys and equal values |
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

SameText: TypeAlias = Callable[[str, str], bool]

_NUMBERS: Final = (int, float, Decimal)
_DATES: Final = (datetime.date, datetime.time)
_TOLERANCE: Final = 1e-9


def equal(found: Any, other: Any, same_text: SameText) -> bool:
    """Return whether two terms are equal; ``same_text`` compares text."""
    if isinstance(found, str) and isinstance(other, str):
        return same_text(found, other)
    for one, another in ((found, other), (other, found)):
        if isinstance(one, str):
            return is_written(another, one)
    if found is None or other is None:
        return found is other
    if isinstance(found, bool) or isinstance(other, bool):
        return found is other
    if isinstance(found, _NUMBERS) and isinstance(other, _NUMBERS):
        return _same_number(found, other)
    if isinstance(found, Mapping) and isinstance(other, Mapping):
        return _same_map(found, other, same_text)
    if is_several(found) and is_several(other):
        if isinstance(found, set | frozenset) or isinstance(other, set | frozenset):
            return len(found) == len(other) == matching(list(found), list(other), same_text)
        return len(found) == len(other) and all(equal(*pair, same_text) for pair in zip(found, other, strict=True))
    return type(found) is type(other) and bool(found == other)


def is_several(value: Any) -> bool:
    """Return whether a value has elements: a list, a tuple, a range or a set."""
    return isinstance(value, list | tuple | set | frozenset | range)


def matching(found: Sequence[Any], others: Sequence[Any], same_text: SameText) -> int:
    """Return how many elements of two lists are equal, each counted once."""
    left = list(others)
    count = 0
    for item in found:
        place = next((index for index, other in enumerate(left) if equal(item, other, same_text)), None)
        if place is not None:
            del left[place]
            count += 1
    return count


def is_within(value: Any, text: str) -> bool:
    """Return whether text has a number, a boolean or a date as a word of its own."""
    written = _written(value)
    if written is None:
        return False
    return re.search(rf"(?<![\w.,-]){re.escape(written)}(?![\w-]|[.,]\d)", text.casefold()) is not None


def is_written(value: Any, text: str) -> bool:
    """Return whether text is a number, a boolean or a date as it is written."""
    text = text.strip()
    if isinstance(value, bool):
        return text.casefold() == _written(value)
    if isinstance(value, _NUMBERS):
        try:
            return _same_number(value, Decimal(text))
        except InvalidOperation:
            return False
    if isinstance(value, _DATES):
        try:
            return type(value).fromisoformat(text) == value
        except ValueError:
            return False
    return False


def _written(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, _NUMBERS):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).casefold()
    return value.isoformat().casefold() if isinstance(value, _DATES) else None


def _same_number(found: Any, other: Any) -> bool:
    try:
        if isinstance(found, float) or isinstance(other, float):
            one, another = float(found), float(other)
            return math.isclose(one, another, rel_tol=_TOLERANCE) or (math.isnan(one) and math.isnan(another))
        return bool(found == other)
    except (OverflowError, ValueError, InvalidOperation):  # an integer that no float can be; a signalling NaN
        return False


def _same_map(found: Mapping[Any, Any], other: Mapping[Any, Any], same_text: SameText) -> bool:
    # An atom as a key is text to Python.
    return found.keys() == other.keys() and all(equal(value, other[key], same_text) for key, value in found.items())
