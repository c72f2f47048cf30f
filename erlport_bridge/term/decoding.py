"""Decode Erlang external terms to Python values, in pure Python: the reference decoder.

The decoder keeps its own stack instead of calling itself, so that the caller sets the depth limit, not Python's
recursion. It works with an offset into one buffer and reads each byte once.

Offsets in errors count from the start of the data, the version byte included. Inside a compressed term they count from
the start of the inflated data, which has no version byte.
"""

from __future__ import annotations

import struct
import zlib
from mmap import mmap
from struct import Struct
from typing import Final, TypeAlias

from erlport_bridge.errors import DecodeError
from erlport_bridge.term.inspecting import path_text, shown, shown_key
from erlport_bridge.term.structs import STRUCT, from_struct
from erlport_bridge.term.tags import (
    ATOMS,
    BINARY,
    COMPRESSED,
    FUN,
    INTEGER,
    LARGE_TUPLE,
    LIST,
    MAP,
    NEW_FLOAT,
    NIL,
    OPAQUE_READERS,
    READERS,
    REFUSED,
    SMALL_ATOM_UTF8,
    SMALL_INTEGER,
    SMALL_TUPLE,
    STRING,
    VERSION,
    Malformed,
    unpack_u16,
    unpack_u32,
)
from erlport_bridge.term.types import (
    MAX_DEPTH,
    Atom,
    ImproperList,
    OtpErlangFunction,
    OtpErlangPid,
    Term,
    freeze,
)

__all__ = ["MAX_BYTES", "OPAQUE", "Buffer", "decode", "decode_elements", "inflated", "opaque_term"]

#: Largest inflated size of a compressed term, in bytes. 1 MiB of zeros compresses to 1 KiB: without a limit, a small
#: frame fills the memory.
MAX_BYTES: Final = 256 * 1024 * 1024

#: A buffer that a term is read from. An ``mmap`` is read in place, and must not be changed meanwhile.
Buffer: TypeAlias = bytes | bytearray | memoryview | mmap

_unpack_float: Final = Struct(">d").unpack_from
_unpack_i32: Final = Struct(">i").unpack_from

#: The first element of the tuple that ErlPort makes of an opaque term, which only one side can read.
OPAQUE: Final = Atom("$erlport.opaque")
_ERLANG: Final = Atom("erlang")
_NOT_HASHABLE_AS_THEY_ARE: Final = frozenset({list, tuple, dict, ImproperList, set})
_CONTAINERS: Final = frozenset({SMALL_TUPLE, LARGE_TUPLE, LIST, MAP, FUN})
_TOP: Final = -1


def decode(data: Buffer, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES) -> Term:
    r"""Decode one Erlang external term.

    Args:
        data: Exactly one term, beginning with the version byte 131, without the length prefix of its frame.
        max_depth: How many lists, tuples and maps may stand inside one another; 0 allows none but empty ones.
        max_bytes: Largest inflated size of a compressed term.

    Returns:
        The same term: binary -> ``str`` if it is UTF-8, else ``bytes``; list -> ``list``; tuple -> ``tuple``;
        map -> ``dict``; ``nil`` -> ``None``; other atom -> ``Atom``; the rest as in ``types`` and ``structs``.

    Raises:
        DecodeError: The data ends early, goes on after the term, nests deeper than ``max_depth``, or holds an unknown
            tag, a pickle of ErlPort, or a map with two keys that are equal in Python. ``offset`` is the position of
            the offending byte or of the first byte of the offending term, counted from 0.

    Source: https://www.erlang.org/doc/apps/erts/erl_ext_dist.html

    >>> decode(b"\x83h\x02w\x02oka\x01")
    (Atom('ok'), 1)
    """
    buffer, start = _body(data, max_bytes)
    term, end = _read(buffer, start, max_depth)
    if end != len(buffer):
        raise DecodeError(f"{len(buffer) - end} bytes too many behind the term", end)
    return term


def decode_elements(
    data: Buffer, count: int, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES
) -> tuple[Term, ...]:
    r"""Decode the first ``count`` elements of a tuple, and ignore the bytes behind them.

    The id of a call stands before its arguments, so a call whose arguments cannot be decoded is answered all the same.

    Raises:
        DecodeError: As for :func:`decode`, or the data is no tuple of at least ``count`` elements.

    >>> decode_elements(b"\x83h\x03w\x01Ca\x07\xff", 2)
    (Atom('C'), 7)
    """
    buffer, start = _body(data, max_bytes)
    try:
        tag = buffer[start]
        if tag not in (SMALL_TUPLE, LARGE_TUPLE):
            raise DecodeError(f"expected a tuple, got tag {tag}", start)
        size, i = _count(tag, buffer, start)
    except (IndexError, struct.error):
        raise DecodeError("the data ends early", len(buffer)) from None
    if size < count:
        raise DecodeError(f"expected a tuple of at least {count} elements, got {size}", start)
    elements = []
    for _ in range(count):
        element, i = _read(buffer, i, max_depth)
        elements.append(element)
    return tuple(elements)


def _body(data: Buffer, max_bytes: int) -> tuple[bytes, int]:
    """Return the uncompressed bytes of the term, and the offset at which the term begins in them."""
    if type(data) is not bytes:
        data = bytes(memoryview(data))  # bytes(5) would be five zeros
    if not data:
        raise DecodeError("the data ends early", 0)
    if data[0] != VERSION:
        raise DecodeError(f"expected the version byte {VERSION}, got {data[0]}", 0)
    if data[1:2] == bytes([COMPRESSED]):
        return inflated(data, max_bytes), 0
    return data, 1


def inflated(data: bytes, max_bytes: int) -> bytes:
    """Inflate a compressed term; return the term without a version byte.

    Raises:
        DecodeError: The declared size is more than ``max_bytes``, or differs from the inflated size.
    """
    if len(data) < 6:
        raise DecodeError("the data ends early", len(data))
    declared: int = unpack_u32(data, 2)[0]
    if not 0 < declared <= max_bytes:
        raise DecodeError(f"a compressed term of {declared} bytes; 1 to {max_bytes} are allowed", 2)
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(memoryview(data)[6:], declared)
        # The end of the stream may still be unread after the last byte. One byte more contradicts the declared size.
        more = inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise DecodeError(f"a compressed term that does not inflate ({error})", 6) from None
    if more:
        raise DecodeError(f"a compressed term that inflates to more than its declared {declared} bytes", 2)
    if not inflater.eof:
        raise DecodeError("the data ends early", len(data))
    if len(inflated) != declared:
        raise DecodeError(f"a compressed term of {len(inflated)} bytes that declares {declared}", 2)
    if inflater.unused_data:
        excess = len(inflater.unused_data)
        raise DecodeError(f"{excess} bytes too many behind the compressed term", len(data) - excess)
    return inflated


def _read(data: bytes, i: int, max_depth: int) -> tuple[Term, int]:
    """Read the term whose tag is at ``i``; return it and the position behind it.

    ``kind``, ``items``, ``missing`` and ``opened`` describe the container being filled: its tag, its items so far, how
    many terms it still needs (a list also needs its tail, a map two terms per entry), and the position of its tag.
    ``stack`` holds the same four values of each container around it.

    This one loop reads the frequent tags, without a function for each: in Python, the call would cost more than the
    reading.
    """
    size = len(data)
    stack: list[tuple[int, list[Term], int, int]] = []
    items: list[Term] = []
    kind, missing, opened = _TOP, 1, i
    term: Term
    offset = i
    try:
        while True:
            offset = i
            tag = data[i]
            if tag == BINARY:
                start = i + 5
                i = start + unpack_u32(data, i + 1)[0]
                if i > size:
                    raise Malformed(f"a binary of {i - start} bytes, {max(size - start, 0)} bytes are left")
                raw = data[start:i]
                try:
                    term = raw.decode()
                except UnicodeDecodeError:
                    term = raw
            elif tag == SMALL_ATOM_UTF8:
                start = i + 2
                i = start + data[i + 1]
                if i > size:
                    raise IndexError
                term = ATOMS[data[start:i]]
            elif tag == SMALL_INTEGER:
                term = data[i + 1]
                i += 2
            elif tag in _CONTAINERS:
                count, i = _count(tag, data, i)
                if tag == LIST and kind == LIST and missing == 1:
                    missing = count + 1  # a list as the tail of a list: one list, not a deeper one
                    continue
                missing_inside = _missing_inside(tag, count)
                if missing_inside:
                    if missing_inside > size - i:
                        raise Malformed(f"a term of {count} elements, {size - i} bytes are left")
                    if len(stack) >= max_depth:
                        raise Malformed(f"a term that nests deeper than {max_depth} levels")
                    stack.append((kind, items, missing, opened))
                    kind, items, missing, opened = tag, [], missing_inside, offset
                    continue
                term = {} if tag == MAP else ()
            elif tag == NEW_FLOAT:
                term = _unpack_float(data, i + 1)[0]
                if term - term != 0:  # the BEAM has neither NaN nor infinities, and reads no term that holds one
                    raise Malformed(f"a float that is {term}")
                i += 9
            elif tag == INTEGER:
                term = _unpack_i32(data, i + 1)[0]
                i += 5
            elif tag == NIL:
                term = []
                i += 1
            elif tag == STRING:
                start = i + 3
                i = start + unpack_u16(data, i + 1)[0]
                if i > size:
                    raise Malformed(f"a list of {i - start} bytes, {max(size - start, 0)} bytes are left")
                term = list(data[start:i])
                if kind == LIST and missing == 1:
                    items += term
                    term = []
            else:
                reader = READERS.get(tag)
                if reader is None:
                    raise Malformed(REFUSED.get(tag, f"unknown tag {tag}"))
                term, i = reader(data, i + 1)
            items.append(term)
            missing -= 1
            while not missing:
                if kind == _TOP:
                    return term, i
                offset = opened
                if kind == MAP:
                    term = _map(items)
                elif kind == LIST:
                    term = _list(items)
                elif kind == FUN:
                    term = _fun(items, data[opened + 1 : i])
                else:
                    term = tuple(items)
                    if term[0] is OPAQUE and len(term) == 3:
                        term = opaque_term(term)
                kind, items, missing, opened = stack.pop()
                items.append(term)
                missing -= 1
    except (IndexError, struct.error):
        raise DecodeError("the data ends early", size) from None
    except Malformed as error:
        # An error of a container itself is found when the container is complete; then it is no step of the path.
        inner = [] if offset == opened else [(kind, items)]
        frames = [(of_kind, of_items) for of_kind, of_items, _, _ in stack] + inner
        raise DecodeError(str(error), offset, _path(frames)) from None


def _path(frames: list[tuple[int, list[Term]]]) -> str:
    """Return the path through open containers; each is given by its tag and the items it has so far."""
    steps = []
    for kind, items in frames:
        if kind == MAP:
            steps.append(f"[{shown_key(items[-1])}]" if len(items) % 2 else "[a key]")
        elif kind != _TOP:
            steps.append(f"[{len(items)}]")
    return path_text(steps)


def _count(tag: int, data: bytes, i: int) -> tuple[int, int]:
    """Read the number of elements of the container whose tag is at ``i``; return it and the position behind it."""
    if tag == SMALL_TUPLE:
        return data[i + 1], i + 2
    return unpack_u32(data, i + 1)[0], i + 5


def _missing_inside(tag: int, count: int) -> int:
    if tag == MAP:
        return 2 * count
    if tag == LIST:
        return count + 1
    if tag == FUN:
        return count + 4  # pid, module, index and uniq stand before the free variables
    return count


def _list(items: list[Term]) -> Term:
    tail = items.pop()
    if not items:  # LIST_EXT with no element is its tail
        return tail
    return items if type(tail) is list else ImproperList(items, tail)


def _map(items: list[Term]) -> Term:
    keys = items[::2]
    if not _NOT_HASHABLE_AS_THEY_ARE.isdisjoint(map(type, keys)):
        try:
            keys = [freeze(key) for key in keys]
        except ValueError as error:
            raise Malformed(str(error)) from None
    term = dict(zip(keys, items[1::2], strict=True))
    if len(term) != len(keys):
        raise Malformed(_merged_keys(keys))
    return from_struct(term) if STRUCT in term else term


def _merged_keys(keys: list[Term]) -> str:
    first_of: dict[Term, Term] = {}
    for key in keys:
        if key in first_of:
            return f"a map with the keys {shown(first_of[key])} and {shown(key)}, which are one key in Python"
        first_of[key] = key
    raise AssertionError("no key occurs twice")


def opaque_term(term: tuple[Term, ...]) -> Term:
    """Return the term inside an opaque tuple of ErlPort's Erlang half: a pid, port, reference, fun or bitstring.

    Raises:
        Malformed: The tuple holds no such term, or is opaque to another language, such as a pickle of Python.
    """
    _, language, content = term
    if language is not _ERLANG:
        # Unlike ErlPort: it loads these bytes with pickle, which runs any code that they name.
        raise Malformed(f"a term that is opaque to {shown(language)}; a pickle is never loaded")
    raw = content.encode() if type(content) is str else content
    reader = OPAQUE_READERS.get(raw[0]) if type(raw) is bytes and raw else None
    if reader is None:
        raise Malformed(f"an opaque term that is no pid, port, reference, fun or bitstring, but {shown(content)}")
    try:
        opaque, end = reader(raw, 1)
    except (IndexError, struct.error):
        raise Malformed("an opaque term that ends early") from None
    if end != len(raw):
        raise Malformed(f"{len(raw) - end} bytes too many behind an opaque term")
    return opaque


def _fun(items: list[Term], raw: bytes) -> OtpErlangFunction:
    pid, module, index, uniq = items[:4]
    if not (isinstance(pid, OtpErlangPid) and isinstance(module, Atom) and type(index) is int and type(uniq) is int):
        raise Malformed("a fun without its pid, module, index and uniq")
    return OtpErlangFunction(FUN, raw)
