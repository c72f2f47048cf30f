"""What is written for a value whose class is none of those that the format has a tag for."""

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

#: The classes of terms that only the BEAM can look into.
IDENTIFIERS: Final = (OtpErlangPid, OtpErlangPort, OtpErlangReference, OtpErlangFunction, OtpErlangBinary)


def plain(item: object) -> Term:
    """Give an equal ``str``, ``int``, ``float``, ``bytes``, ``list``, ``tuple`` or ``dict``: exactly of that class.

    Raises:
        EncodeError: There is none. The path is left empty.
    """
    if isinstance(item, str):
        return str.__str__(item)
    if isinstance(item, int):
        return int(item)
    if isinstance(item, float):
        return float(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(memoryview(item))  # bytes(item) would ask the item, whose answer may be of its class again
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
    """Give the bytes of an instance of one of :data:`IDENTIFIERS`, read once more.

    What the BEAM refuses, it refuses with the whole frame, and erlang-py checks nothing when an object is made.

    Raises:
        EncodeError: The bytes are no such term. The path is left empty.
    """
    try:
        raw: bytes = item.binary()
        if raw[0] in (tags.BINARY, tags.FUN):
            return raw
        _, end = tags.OPAQUE_READERS[raw[0]](raw, 1)
        if end == len(raw):
            return raw
    except (OutputException, struct.error, tags.Malformed, AttributeError, IndexError, KeyError, TypeError):
        pass  # told below
    raise EncodeError(f"a malformed {type(item).__name__}")
