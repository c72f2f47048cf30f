"""Read scalar values of answers: text, numbers, booleans, ``nil``, dates and times; refuse what would be changed."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import pydantic

from erlport_bridge.programs.values.answer_json import WrittenFloat
from erlport_bridge.term import shown

#: How much a value may be converted: not at all; as JSON needs it, which has no dates, and integers for floats; as far
#: as nothing is lost. A union tries its members in this order.
EXACT, CLOSE, LAX = range(3)


class UnreadableError(ValueError):
    """A value of an answer that does not fit its type.

    Attributes:
        problem: What the type takes, as the beginning of a sentence: ``expected an integer``.
        value: The value that came.
        path: The path of the value below its field, such as ``[0].name``.
        remark: What else is to be said, such as the name of a missing key.
    """

    def __init__(self, problem: str, value: object, *, path: str = "", remark: str = "") -> None:
        self.problem = problem
        self.value = value
        self.path = path
        self.remark = remark
        super().__init__()

    def at(self, place: str) -> str:
        """Return the sentence about the value in a field at this place."""
        return f"{self.problem} at {place}{self.path}, got {shown(plain_values(self.value))}{self.remark}"

    def __str__(self) -> str:
        """Return the sentence about the value without its field."""
        return self.at("the answer")


def plain_values(value: Any) -> Any:
    """Return a value with plain floats, as orjson refuses subclasses of float."""
    if isinstance(value, WrittenFloat):
        return float(value)
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(plain_values, value))
    if isinstance(value, pydantic.BaseModel):
        # The model is modified in place, since it has been validated already.
        value.__dict__.update({name: plain_values(item) for name, item in value.__dict__.items()})
    return value


def _text(value: Any, level: int) -> str:
    if isinstance(value, str):
        return checked_text(value)
    if level == LAX and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UnreadableError("expected a string", value)


def checked_text(text: str) -> str:
    """Return a text; refuse half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UnreadableError("expected a string without half a surrogate pair", text) from None
    return text


def _integer(value: Any, level: int) -> int:
    if type(value) is int:
        return value
    if level == LAX and (number := _number(value)) is not None and number == number.to_integral_value():
        return int(number)
    raise UnreadableError("expected an integer", value)


def _float(value: Any, level: int) -> float:
    if isinstance(value, float):
        if math.isinf(value) and isinstance(value, WrittenFloat) and str(value)[-1].isdigit():
            raise UnreadableError("expected a number that a float can hold", Decimal(str(value)))
        return float(value)
    if level >= CLOSE and type(value) is int:
        number: Decimal | None = Decimal(value)
    else:
        number = _number(value) if level == LAX else None
    if number is None:
        if level == LAX and isinstance(value, str) and value.strip() in _NOT_FINITE:
            return float(value)
        raise UnreadableError("expected a number", value)
    try:
        found = float(number)
    except OverflowError:
        found = math.inf
    if math.isinf(found):
        raise UnreadableError("expected a number that a float can hold", value)
    return found


_NOT_FINITE: Final = ("NaN", "Infinity", "-Infinity")


def _decimal(value: Any, level: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if level >= CLOSE and (number := _number(value, bound=None)) is not None:
        return number
    raise UnreadableError("expected a decimal number", value)


_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]{3})*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?")
# As many digits as Python converts to an integer.
_MAX_NUMBER_CHARACTERS: Final = 4_300
_MAX_EXPONENT: Final = 4_300


def _number(value: Any, bound: int | None = _MAX_EXPONENT) -> Decimal | None:
    """Return the number that a value or its text is, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if type(value) is int:
        return Decimal(value)
    text = str(value).strip()
    if len(text) > _MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    return number if bound is None or not number or abs(number.adjusted()) <= bound else None


_WORDS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _boolean(value: Any, level: int) -> bool:
    if isinstance(value, bool):
        return value
    if level == LAX and isinstance(value, str) and (found := _WORDS.get(value.strip().lower())) is not None:
        return found
    raise UnreadableError("expected true or false", value)


def _nil(value: Any, level: int) -> None:
    if value is None or (level == LAX and isinstance(value, str) and value.strip() in ("null", "None", "")):
        return
    raise UnreadableError("expected nil", value)


_DIGITS_ONLY: Final = re.compile(r"[-+]?[0-9._]*")
# Pydantic would cut the digits behind microseconds.
_BELOW_MICROSECONDS: Final = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")


def _moment(cls: type, expected: str, form: str) -> Callable[[Any, int], Any]:
    parse: Callable[[str], Any] = pydantic.TypeAdapter(cls).validate_strings
    usual = re.compile(form)

    def read(value: Any, level: int) -> Any:
        if type(value) is cls:
            return value
        if isinstance(value, str) and level >= CLOSE:
            text = value.strip()
            is_usual = usual.match(text) is not None
            if (is_usual or (level == LAX and not _DIGITS_ONLY.fullmatch(text))) and not _BELOW_MICROSECONDS.search(
                text
            ):
                try:
                    found = parse(text)
                except (pydantic.ValidationError, OverflowError):
                    pass
                else:
                    if cls is datetime.time and found.tzinfo is not None:
                        raise UnreadableError("expected a time of day without a time zone", value)
                    return found
        raise UnreadableError(f"expected {expected}", value)

    return read


#: Annotation -> the function that reads a value of JSON for it: ``(value, level) -> value``.
SCALARS: Final[Mapping[Any, Callable[[Any, int], Any]]] = {
    str: _text,
    int: _integer,
    float: _float,
    bool: _boolean,
    type(None): _nil,
    Decimal: _decimal,
    datetime.datetime: _moment(datetime.datetime, "a date and time", r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]"),
    datetime.date: _moment(datetime.date, "a date", r"[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
    datetime.time: _moment(datetime.time, "a time of day", r"[0-9]{2}:[0-9]{2}"),
}
