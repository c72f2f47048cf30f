"""Convert values whose class has no tag of its own to values that have one, such as an ``int`` of a subclass."""

from __future__ import annotations

import struct
from typing import Final

from erlang import OutputException

from erlport_bridge.errors import EncodeError
from erlport_bridge.term import tags
from erlport_bridge.term.structs import to_struct
from erlport_bridge.term.types import (
    FrozenList,
    OtpErlangBinary,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
    Term,
)

__all__ = ["IDENTIFIERS", "identifier", "plain"]

#: The classes of opaque terms, which only the BEAM can read.
IDENTIFIERS: Final = (OtpErlangPid, OtpErlangPort, OtpErlangReference, OtpErlangFunction, OtpErlangBinary)


def plain(item: object) -> Term:
    """Return an equal ``str``, ``int``, ``float``, ``bytes``, ``list``, ``tuple`` or ``dict``: exactly of that class.

    Raises:
        EncodeError: No such value is equal to ``item``. The path is left empty.
    """
    if isinstance(item, str):
        return str.__str__(item)
    if isinstance(item, int):
        return int(item)
    if isinstance(item, float):
        return float(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(memoryview(item))  # bytes(item) would call item.__bytes__, which may return a subclass again
    if isinstance(item, list | FrozenList):
        return list(item)
    if isinstance(item, tuple):
        return tuple(item)
    if isinstance(item, dict):
        return dict(item)
    fields = to_struct(item)
    if fields is None:
        raise EncodeError(f"no term for an object of type {type(item).__module__}.{type(item).__qualname__}")
    return fields


def identifier(item: Term) -> bytes:
    """Return the bytes of an instance of one of :data:`IDENTIFIERS`, after a check.

    The BEAM refuses a whole frame for one malformed term, and erlang-py checks nothing when an object is made.

    Raises:
        EncodeError: The bytes are malformed. The path is left empty.
    """
    try:
        raw: bytes = item.binary()
        if raw[0] in (tags.BINARY, tags.FUN):
            return raw
        _, end = tags.OPAQUE_READERS[raw[0]](raw, 1)
        if end == len(raw):
            return raw
    except (OutputException, struct.error, tags.Malformed, AttributeError, IndexError, KeyError, TypeError):
        pass  # raised below
    raise EncodeError(f"a malformed {type(item).__name__}")
