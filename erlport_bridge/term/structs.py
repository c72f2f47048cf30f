"""Convert Elixir structs to their Python counterparts, and back.

======================================  ==========================================================================
Elixir                                  Python
======================================  ==========================================================================
``DateTime``                            ``datetime`` with a time zone: ``timezone.utc``, or an :class:`ElixirZone`
``NaiveDateTime``                       ``datetime`` without a time zone
``Date``, ``Time``                      ``date``, ``time``
``Decimal``                             ``Decimal``
``MapSet``                              ``set`` (its members as in map keys: hashable)
``Range``                               ``range``
one of these structs, with fields that  a map *with* its ``__struct__``, so that it goes back as it came
Python cannot hold
any other struct                        a map without its ``__struct__``
======================================  ==========================================================================

Python cannot hold: a calendar other than ``Calendar.ISO``, years outside 1..9999, coefficients of more than 4,096
digits, and fields that are missing or of another type. No struct from Elixir makes this module fail.

A microsecond field has a precision in Elixir: ``{120_000, 2}`` is two digits. :class:`PreciseDateTime` and
:class:`PreciseTime` keep the precision; plain values get 0 digits for no microseconds and 6 otherwise.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final

from erlport_bridge.errors import EncodeError
from erlport_bridge.term.types import Atom, Term

__all__ = ["STRUCT", "ElixirZone", "PreciseDateTime", "PreciseTime", "from_struct", "set_elixir_version", "to_struct"]

STRUCT: Final = Atom("__struct__")

_ISO: Final = Atom("Elixir.Calendar.ISO")
_NOT_A_NUMBER: Final = Atom("NaN")
_INFINITY: Final = Atom("inf")
_MAX_COEFFICIENT: Final = 10**4_096

_DATE_FIELDS: Final = (Atom("year"), Atom("month"), Atom("day"))
_TIME_FIELDS: Final = (Atom("hour"), Atom("minute"), Atom("second"))
_ZONE_FIELDS: Final = (Atom("time_zone"), Atom("zone_abbr"), Atom("utc_offset"), Atom("std_offset"))

# `MapSet` has a field `version` up to Elixir 1.14. Its functions refuse a set that lacks the field there, or has it
# in a later version.
_mapset_version: int | None = None


def set_elixir_version(version: str) -> None:
    """Set the version of Elixir that reads this process's terms, for structs whose fields differ between versions.

    Args:
        version: ``System.version()`` of the other side, such as ``"1.14.0"``. By default 1.15 or newer is assumed.

    Raises:
        ValueError: The text does not begin with two numbers.
    """
    global _mapset_version
    major, minor = version.split(".")[:2]
    _mapset_version = 2 if (int(major), int(minor)) < (1, 15) else None


class PreciseDateTime(datetime):
    """A ``datetime`` with the precision that its microseconds have in Elixir; values computed from it lose it."""

    precision: int | None = None


class PreciseTime(time):
    """A ``time`` with the precision that its microseconds have in Elixir; values computed from it lose it."""

    precision: int | None = None


@dataclass(frozen=True)
class ElixirZone(tzinfo):
    """The time zone of one ``DateTime``: its name and the offsets that it had at that moment, in seconds.

    The offset is fixed: a moment computed from another one keeps it, even across a change of summer time.
    """

    time_zone: str
    zone_abbr: str
    utc_offset: int
    std_offset: int

    def utcoffset(self, _moment: datetime | None) -> timedelta:
        """Return the whole offset from UTC."""
        return timedelta(seconds=self.utc_offset + self.std_offset)

    def dst(self, _moment: datetime | None) -> timedelta:
        """Return the part of the UTC offset that is summer time."""
        return timedelta(seconds=self.std_offset)

    def tzname(self, _moment: datetime | None) -> str:
        """Return the abbreviation, such as ``CEST``."""
        return self.zone_abbr


_UTC: Final = ElixirZone("Etc/UTC", "UTC", 0, 0)


class _OtherShapeError(Exception):
    """Python cannot hold the fields of a struct."""


def from_struct(fields: dict[Term, Term]) -> Term:
    """Return the Python value of a map that has a key ``__struct__``, as in this module's table.

    The map may be modified in place, or be the result; the caller must not use it any more.
    """
    name = fields[STRUCT]
    # The binary "__struct__" is equal to the atom in Python; only the atom makes a struct.
    if type(name) is not Atom or not any(type(key) is Atom and key == STRUCT for key in fields):
        return fields
    reader = _READERS.get(name)
    if reader is None:
        del fields[STRUCT]
        return fields
    try:
        return reader(fields)
    # ValueError: 30 February, a step of 0. OverflowError and InvalidOperation: numbers too large for Python's classes.
    except (_OtherShapeError, ValueError, OverflowError, decimal.InvalidOperation):
        return fields


def to_struct(value: object) -> dict[Term, Term] | None:
    """Return the struct of a Python value as a map, or ``None`` if its class is not in this module's table.

    Raises:
        EncodeError: The class is in the table, but Elixir's struct cannot hold the value. The path is left empty.
    """
    for kind, writer in _WRITERS.items():
        if isinstance(value, kind):
            return writer(value)
    return None


def _fields(struct: Mapping[Term, Term], *names: Atom, of: type = int) -> list[Any]:
    """Return the fields of these names, all of exactly this type: in Python ``True`` would pass as the year 1."""
    values = [struct.get(name) for name in names]
    if any(type(value) is not of for value in values):
        raise _OtherShapeError
    return values


def _expect_iso(struct: Mapping[Term, Term], size: int) -> None:
    if len(struct) != size or struct.get(Atom("calendar")) is not _ISO:
        raise _OtherShapeError


def _microsecond(struct: Mapping[Term, Term]) -> tuple[int, int | None]:
    """Return the microseconds and their precision; ``None`` stands for the default precision."""
    match struct.get(Atom("microsecond")):
        case (value, precision) if type(value) is int and type(precision) is int and 0 <= precision <= 6:
            return value, None if precision == _default_precision(value) else precision
    raise _OtherShapeError


def _default_precision(microsecond: int) -> int:
    return 6 if microsecond else 0


def _read_date(struct: dict[Term, Term]) -> date:
    _expect_iso(struct, 5)
    year, month, day = _fields(struct, *_DATE_FIELDS)
    return date(year, month, day)


def _read_time(struct: dict[Term, Term]) -> time:
    _expect_iso(struct, 6)
    hour, minute, second = _fields(struct, *_TIME_FIELDS)
    microsecond, precision = _microsecond(struct)
    if precision is None:
        return time(hour, minute, second, microsecond)
    precise = PreciseTime(hour, minute, second, microsecond)
    precise.precision = precision
    return precise


def _read_naive_datetime(struct: dict[Term, Term]) -> datetime:
    _expect_iso(struct, 9)
    return _read_moment(struct, None)


def _read_datetime(struct: dict[Term, Term]) -> datetime:
    _expect_iso(struct, 13)
    names = _fields(struct, *_ZONE_FIELDS[:2], of=str)
    offsets = _fields(struct, *_ZONE_FIELDS[2:])
    zone = ElixirZone(*names, *offsets)
    if not all(abs(seconds) < 86_400 for seconds in (*offsets, sum(offsets))):
        raise _OtherShapeError
    return _read_moment(struct, timezone.utc if zone == _UTC else zone)


def _read_moment(struct: dict[Term, Term], zone: tzinfo | None) -> datetime:
    year, month, day, hour, minute, second = _fields(struct, *_DATE_FIELDS, *_TIME_FIELDS)
    microsecond, precision = _microsecond(struct)
    if precision is None:
        return datetime(year, month, day, hour, minute, second, microsecond, zone)
    precise = PreciseDateTime(year, month, day, hour, minute, second, microsecond, zone)
    precise.precision = precision
    return precise


def _read_decimal(struct: dict[Term, Term]) -> decimal.Decimal:
    sign, exponent = _fields(struct, Atom("sign"), Atom("exp"))
    coefficient = struct.get(Atom("coef"))
    if len(struct) != 4 or sign not in (1, -1):
        raise _OtherShapeError
    negative = int(sign < 0)
    if (coefficient is _NOT_A_NUMBER or coefficient is _INFINITY) and exponent == 0:
        return decimal.Decimal(f"-{coefficient}" if negative else coefficient)
    if type(coefficient) is not int or not 0 <= coefficient < _MAX_COEFFICIENT:
        raise _OtherShapeError
    return decimal.Decimal((negative, tuple(map(int, str(coefficient))), exponent))


def _read_mapset(struct: dict[Term, Term]) -> set[Term]:
    members = struct.get(Atom("map"))
    if len(struct) - (Atom("version") in struct) != 2 or type(members) is not dict:
        raise _OtherShapeError
    if any(type(mark) is not list or mark for mark in members.values()):
        raise _OtherShapeError
    return set(members)


def _read_range(struct: dict[Term, Term]) -> range:
    if len(struct) != 4:
        raise _OtherShapeError
    first, last, step = _fields(struct, Atom("first"), Atom("last"), Atom("step"))
    return range(first, last + _sign(step), step)


def _sign(number: int) -> int:
    return 1 if number > 0 else -1


def _write_date(value: date) -> dict[Term, Term]:
    return {STRUCT: Atom("Elixir.Date"), Atom("calendar"): _ISO, **_date_fields(value)}


def _write_time(value: time) -> dict[Term, Term]:
    if value.tzinfo is not None:
        raise EncodeError(f"Elixir's Time has no time zone, {value!r} has one; send a datetime")
    return {STRUCT: Atom("Elixir.Time"), Atom("calendar"): _ISO, **_time_fields(value)}


def _write_datetime(value: datetime) -> dict[Term, Term]:
    fields = {Atom("calendar"): _ISO, **_date_fields(value), **_time_fields(value)}
    zone = _zone(value)
    if zone is None:
        return {STRUCT: Atom("Elixir.NaiveDateTime"), **fields}
    zone_fields = (zone.time_zone, zone.zone_abbr, zone.utc_offset, zone.std_offset)
    return {STRUCT: Atom("Elixir.DateTime"), **fields, **dict(zip(_ZONE_FIELDS, zone_fields, strict=True))}


def _date_fields(value: date) -> dict[Term, Term]:
    return dict(zip(_DATE_FIELDS, (value.year, value.month, value.day), strict=True))


def _time_fields(value: time | datetime) -> dict[Term, Term]:
    precision = value.precision if isinstance(value, PreciseDateTime | PreciseTime) else None
    if precision is None:
        precision = _default_precision(value.microsecond)
    fields = dict(zip(_TIME_FIELDS, (value.hour, value.minute, value.second), strict=True))
    return {**fields, Atom("microsecond"): (value.microsecond, precision)}


def _zone(value: datetime) -> ElixirZone | None:
    """Return the time zone in Elixir's form. A fixed offset without a name gets Python's name: ``UTC+02:00``."""
    if isinstance(value.tzinfo, ElixirZone):
        return value.tzinfo
    offset = value.utcoffset()
    if offset is None:
        return None
    summer = value.dst() or timedelta()
    if offset % timedelta(seconds=1) or summer % timedelta(seconds=1):
        raise EncodeError(f"Elixir's DateTime has a UTC offset in whole seconds, {value!r} has {offset}")
    abbreviation = value.tzname() or "UTC"
    name = getattr(value.tzinfo, "key", None) or abbreviation  # `key` is the name of a zoneinfo.ZoneInfo
    if not offset and name in ("UTC", "Etc/UTC"):
        return _UTC
    standard = offset - summer
    return ElixirZone(name, abbreviation, int(standard.total_seconds()), int(summer.total_seconds()))


def _write_decimal(value: decimal.Decimal) -> dict[Term, Term]:
    sign, digits, exponent = value.as_tuple()
    coefficient: int | Atom
    if isinstance(exponent, str):  # "F" stands for infinity, "n" and "N" for NaN
        coefficient, exponent = (_INFINITY if exponent == "F" else _NOT_A_NUMBER), 0
    else:
        coefficient = int(decimal.Decimal((0, digits, 0)))
    return {
        STRUCT: Atom("Elixir.Decimal"),
        Atom("sign"): -1 if sign else 1,
        Atom("coef"): coefficient,
        Atom("exp"): exponent,
    }


def _write_set(value: Set[Term]) -> dict[Term, Term]:
    members: dict[Term, Term] = {member: [] for member in value}
    struct: dict[Term, Term] = {STRUCT: Atom("Elixir.MapSet"), Atom("map"): members}
    return struct if _mapset_version is None else {**struct, Atom("version"): _mapset_version}


def _write_range(value: range) -> dict[Term, Term]:
    return {
        STRUCT: Atom("Elixir.Range"),
        Atom("first"): value.start,
        Atom("last"): value.stop - _sign(value.step),
        Atom("step"): value.step,
    }


_READERS: Final[dict[str, Callable[[dict[Term, Term]], Term]]] = {
    "Elixir.DateTime": _read_datetime,
    "Elixir.NaiveDateTime": _read_naive_datetime,
    "Elixir.Date": _read_date,
    "Elixir.Time": _read_time,
    "Elixir.Decimal": _read_decimal,
    "Elixir.MapSet": _read_mapset,
    "Elixir.Range": _read_range,
}

# The order matters: a datetime is a date, too.
_WRITERS: Final[dict[type, Callable[[Any], dict[Term, Term]]]] = {
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    decimal.Decimal: _write_decimal,
    set: _write_set,
    frozenset: _write_set,
    range: _write_range,
}
