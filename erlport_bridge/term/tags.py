"""Define the tags of the external term format, and a reader for each rare tag that is no container.

A reader takes the buffer and the position behind the tag, and returns the term and the position behind the term. Where
the data ends early it raises ``IndexError`` or ``struct.error``, as Python itself does; for any other error it raises
:class:`Malformed`. The decoder adds the offset to both.

Source: https://www.erlang.org/doc/apps/erts/erl_ext_dist.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from struct import Struct
from typing import Final

from erlang import OtpErlangAtom

from erlport_bridge.term.types import (
    MAX_ATOM_CHARACTERS,
    Atom,
    OtpErlangBinary,
    OtpErlangFunction,
    OtpErlangPid,
    OtpErlangPort,
    OtpErlangReference,
    Term,
)

VERSION: Final = 131
COMPRESSED: Final = 80

NEW_FLOAT: Final = 70
BIT_BINARY: Final = 77
NEW_PID: Final = 88
NEW_PORT: Final = 89
NEWER_REFERENCE: Final = 90
SMALL_INTEGER: Final = 97
INTEGER: Final = 98
FLOAT: Final = 99
ATOM: Final = 100
REFERENCE: Final = 101
PORT: Final = 102
PID: Final = 103
SMALL_TUPLE: Final = 104
LARGE_TUPLE: Final = 105
NIL: Final = 106
STRING: Final = 107
LIST: Final = 108
BINARY: Final = 109
SMALL_BIG: Final = 110
LARGE_BIG: Final = 111
NEW_FUN: Final = 112
EXPORT: Final = 113
NEW_REFERENCE: Final = 114
SMALL_ATOM: Final = 115
MAP: Final = 116
FUN: Final = 117
ATOM_UTF8: Final = 118
SMALL_ATOM_UTF8: Final = 119
V4_PORT: Final = 120

#: Valid tags that are refused, with the reason.
REFUSED: Final = {
    COMPRESSED: "a compressed term inside a term",
    82: "ATOM_CACHE_REF (tag 82), which only nodes of a cluster can read",
    121: "LOCAL_EXT (tag 121), which only the node that wrote it can read",
}

Reader = Callable[[bytes, int], tuple[Term, int]]

unpack_u16: Final = Struct(">H").unpack_from
unpack_u32: Final = Struct(">I").unpack_from
_unpack_header_of_fun: Final = Struct(">IB16sII").unpack_from
_SIZE_OF_FUN_HEADER: Final = 29
_OLD_FLOAT: Final = re.compile(rb"\s*[+-]?[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?\0*")
_NO_ATOMS: Final[dict[str, bool | None]] = {"nil": None, "true": True, "false": False}
_MAX_CACHED_ATOMS: Final = 65_536


class Malformed(Exception):  # noqa: N818  # never leaves the decoder, which makes a DecodeError of it
    """The reason why a term is malformed, without its offset and path."""


class AtomsByBytes(dict[bytes, "Atom | bool | None"]):
    """A cache of atoms by their UTF-8 bytes; a missing atom is decoded and cached."""

    def __missing__(self, raw: bytes) -> Atom | bool | None:
        try:
            atom = _atom(raw.decode())
        except UnicodeDecodeError:
            raise Malformed("an atom that is not UTF-8") from None
        if len(self) < _MAX_CACHED_ATOMS:
            self[raw] = atom
        return atom


ATOMS: Final = AtomsByBytes()


def _atom(name: str) -> Atom | bool | None:
    if len(name) > MAX_ATOM_CHARACTERS:
        raise Malformed(f"an atom of {len(name)} characters; {MAX_ATOM_CHARACTERS} are allowed")
    return _NO_ATOMS[name] if name in _NO_ATOMS else Atom(name)


def _bytes(data: bytes, i: int, size: int) -> tuple[bytes, int]:
    end = i + size
    if end > len(data):
        raise IndexError
    return data[i:end], end


def _read_atom_utf8(data: bytes, i: int) -> tuple[Term, int]:
    raw, i = _bytes(data, i + 2, unpack_u16(data, i)[0])
    return ATOMS[raw], i


def _read_small_atom_utf8(data: bytes, i: int) -> tuple[Term, int]:
    raw, i = _bytes(data, i + 1, data[i])
    return ATOMS[raw], i


def _read_atom(data: bytes, i: int) -> tuple[Term, int]:
    raw, i = _bytes(data, i + 2, unpack_u16(data, i)[0])
    return _atom(raw.decode("latin-1")), i


def _read_small_atom(data: bytes, i: int) -> tuple[Term, int]:
    raw, i = _bytes(data, i + 1, data[i])
    return _atom(raw.decode("latin-1")), i


def _read_small_big(data: bytes, i: int) -> tuple[Term, int]:
    return _big(data, i + 1, data[i])


def _read_large_big(data: bytes, i: int) -> tuple[Term, int]:
    return _big(data, i + 4, unpack_u32(data, i)[0])


def _big(data: bytes, i: int, size: int) -> tuple[int, int]:
    sign = data[i]
    raw, i = _bytes(data, i + 1, size)
    if sign > 1:
        raise Malformed(f"an integer with the sign {sign}")
    absolute = int.from_bytes(raw, "little")
    return (-absolute if sign else absolute), i


def _read_float(data: bytes, i: int) -> tuple[Term, int]:
    raw, i = _bytes(data, i, 31)
    if _OLD_FLOAT.fullmatch(raw):
        value = float(raw.rstrip(b"\0"))
        if math.isfinite(value):
            return value, i
    raise Malformed(f"a float written as {raw!r}")


def _read_bit_binary(data: bytes, i: int) -> tuple[Term, int]:
    size, bits = unpack_u32(data, i)[0], data[i + 4]
    raw, i = _bytes(data, i + 5, size)
    if not 1 <= bits <= 7 or not raw:
        raise Malformed(f"a bitstring of {size} bytes with {bits} bits in its last byte")
    return OtpErlangBinary(raw, bits), i


def _node(data: bytes, i: int) -> tuple[OtpErlangAtom, int]:
    """Read the atom that names a node. It is written back with tag 118 or 119, whatever tag it came with."""
    reader = ATOM_READERS.get(data[i])
    if reader is None:
        raise Malformed(f"tag {data[i]} where an atom must stand")
    atom, i = reader(data, i + 1)
    return OtpErlangAtom(_name(atom)), i


def _name(atom: Atom | bool | None) -> str:
    if isinstance(atom, Atom):
        return str(atom)
    return "nil" if atom is None else str(atom).lower()


def _pid_reader(size_of_creation: int) -> Reader:
    def read_pid(data: bytes, i: int) -> tuple[Term, int]:
        node, i = _node(data, i)
        raw, i = _bytes(data, i, 8 + size_of_creation)
        return OtpErlangPid(node, raw[:4], raw[4:8], raw[8:]), i

    return read_pid


def _port_reader(size_of_id: int, size_of_creation: int) -> Reader:
    def read_port(data: bytes, i: int) -> tuple[Term, int]:
        node, i = _node(data, i)
        raw, i = _bytes(data, i, size_of_id + size_of_creation)
        return OtpErlangPort(node, raw[:size_of_id], raw[size_of_id:]), i

    return read_port


def _reference_reader(size_of_creation: int) -> Reader:
    def read_reference(data: bytes, i: int) -> tuple[Term, int]:
        words = unpack_u16(data, i)[0]
        if not words:
            # erlang-py would write it back with another tag and other fields.
            raise Malformed("a reference without an id")
        node, i = _node(data, i + 2)
        creation, i = _bytes(data, i, size_of_creation)
        identity, i = _bytes(data, i, 4 * words)
        return OtpErlangReference(node, identity, creation), i

    return read_reference


def _read_reference(data: bytes, i: int) -> tuple[Term, int]:
    node, i = _node(data, i)
    raw, i = _bytes(data, i, 5)
    return OtpErlangReference(node, raw[:4], raw[4:]), i


def _read_new_fun(data: bytes, i: int) -> tuple[Term, int]:
    """Read a fun without decoding its free variables: it goes back as it came, byte for byte."""
    size = _unpack_header_of_fun(data, i)[0]
    if size < _SIZE_OF_FUN_HEADER:
        raise Malformed(f"a fun of {size} bytes")
    raw, i = _bytes(data, i, size)
    return OtpErlangFunction(NEW_FUN, raw), i


def _read_export(data: bytes, i: int) -> tuple[Term, int]:
    module, i = _node(data, i)
    function, i = _node(data, i)
    if data[i] != SMALL_INTEGER:
        raise Malformed(f"tag {data[i]} where an arity must stand")
    arity, i = _bytes(data, i, 2)
    return OtpErlangFunction(EXPORT, module.binary() + function.binary() + arity), i


ATOM_READERS: Final[dict[int, Reader]] = {
    ATOM: _read_atom,
    SMALL_ATOM: _read_small_atom,
    ATOM_UTF8: _read_atom_utf8,
    SMALL_ATOM_UTF8: _read_small_atom_utf8,
}

#: Readers of the terms that ErlPort's Erlang half wraps into ``{'$erlport.opaque', erlang, Bytes}``.
OPAQUE_READERS: Final[dict[int, Reader]] = {
    PID: _pid_reader(1),
    NEW_PID: _pid_reader(4),
    PORT: _port_reader(4, 1),
    NEW_PORT: _port_reader(4, 4),
    V4_PORT: _port_reader(8, 4),
    REFERENCE: _read_reference,
    NEW_REFERENCE: _reference_reader(1),
    NEWER_REFERENCE: _reference_reader(4),
    NEW_FUN: _read_new_fun,
    EXPORT: _read_export,
    BIT_BINARY: _read_bit_binary,
}

READERS: Final[dict[int, Reader]] = {
    **ATOM_READERS,
    **OPAQUE_READERS,
    SMALL_BIG: _read_small_big,
    LARGE_BIG: _read_large_big,
    FLOAT: _read_float,
}
