"""Compare Python values where ``==`` is too generous: ``True == 1``, ``0.0 == -0.0``, ``Atom("a") == "a"``."""

from datetime import datetime, time
from decimal import Decimal
from typing import Any

from erlport_bridge.term import (
    ImproperList,
    OtpErlangBinary,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
)

_IDENTIFIERS = (OtpErlangBinary, OtpErlangFunction, OtpErlangPid, OtpErlangPort, OtpErlangReference)


def exact(value: Any) -> tuple[Any, ...]:
    """Return a key that is equal for two values only if both have the same types and bits at every depth.

    The key is flat, with an entry for each inner value in the order of the format, because Python compares nested
    values by recursion.
    """
    entries = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        children = _children(item)
        entries.append((type(item), len(children)) if children is not None else (type(item), _scalar(item)))
        waiting += reversed(children or ())
    return tuple(entries)


def _children(value: Any) -> list[Any] | None:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return [child for entry in value.items() for child in entry]
    if isinstance(value, ImproperList):
        return [*value.items, value.tail]
    return None


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, set | frozenset):
        return frozenset(map(exact, value))
    if isinstance(value, _IDENTIFIERS):
        return value.binary()
    if isinstance(value, datetime | time):
        return repr(value), getattr(value, "precision", None)
    if isinstance(value, Decimal):
        return value.as_tuple()
    if isinstance(value, range):
        return value.start, value.stop, value.step
    return value
