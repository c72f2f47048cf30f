"""Encode Python values as Erlang external terms, in the form that OTP 26 and newer write: the reference encoder.

Like the decoder, the encoder keeps its own stack instead of calling itself.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import chain
from struct import Struct
from typing import Final, TypeAlias

from erlport_bridge.errors import EncodeError
from erlport_bridge.term import tags
from erlport_bridge.term.inspecting import path_text, shown, shown_key
from erlport_bridge.term.plain import IDENTIFIERS, identifier, plain
from erlport_bridge.term.types import MAX_ATOM_CHARACTERS, MAX_DEPTH, Atom, ImproperList, Term

__all__ = ["PACKET_SIZES", "deflated", "encode", "encode_frame", "frame_length"]

_pack_tag_u32: Final = Struct(">BI").pack
_pack_tag_u16: Final = Struct(">BH").pack
_pack_integer: Final = Struct(">Bi").pack
_pack_float: Final = Struct(">Bd").pack

_VERSION: Final = bytes([tags.VERSION])
_NIL: Final = bytes([tags.NIL])
_SMALL_INTEGERS: Final = tuple(bytes([tags.SMALL_INTEGER, number]) for number in range(256))
_BINARY_HEADERS: Final = tuple(_pack_tag_u32(tags.BINARY, size) for size in range(256))

# Keys of these types are different terms whenever they are different in Python. Keys of other types may not be: "a"
# and b"a" are one binary, None and Atom("nil") one atom. The BEAM refuses a whole frame if a map in it has a key twice.
_DISTINCT_KEYS: Final = frozenset({str, Atom, int})

#: The sizes that a frame's length prefix may have, in bytes.
PACKET_SIZES: Final = (1, 2, 4)

_MAX_CACHED_ATOMS: Final = 65_536


def encode(term: Term, *, compressed: int = 0, max_depth: int = MAX_DEPTH, packet: int = 0) -> bytes:
    r"""Encode one term.

    Args:
        term: Any value that ``decode`` returns, or an instance of a subclass of such a value's class.
        compressed: Level of zlib, 1 to 9; with 0, or where compression makes the term no shorter, it is left as it is.
        max_depth: How many containers that are not empty may stand inside one another.
        packet: 1, 2 or 4 puts the length of the term before it, in so many bytes: a whole frame of ``{packet, N}``.

    Returns:
        The term with its version byte, in the one form that a BEAM has for it: the same bytes as ``term_to_binary/1``.

    Raises:
        EncodeError: A value, a map key or a member of a set cannot be encoded, a text holds a lone surrogate, two keys
            of a map become the same term, or a container nests too deep or contains itself; ``path`` leads to the
            value. Or the term is too long for its frame.

    >>> encode((Atom("ok"), 1))
    b'\x83h\x02w\x02oka\x01'
    >>> encode(None, packet=2)
    b'\x00\x06\x83w\x03nil'
    """
    parts = [_VERSION]
    _write(term, parts, max_depth)
    if compressed:
        parts = [deflated(b"".join(parts), compressed)]
    if packet:
        parts.insert(0, frame_length(sum(map(len, parts)), packet))
    return b"".join(parts)


def encode_frame(
    term: Term, *, packet: int, compressed: int = 0, max_depth: int = MAX_DEPTH
) -> list[bytes | memoryview]:
    """Encode one term as a whole frame, in consecutive parts.

    With parts, a large text or binary need not be copied: a part may be a view of its memory, which it keeps alive.
    This reference always copies, and returns one part. Arguments and errors are the same as for :func:`encode`.
    """
    return [encode(term, compressed=compressed, max_depth=max_depth, packet=packet)]


def deflated(encoded: bytes, level: int) -> bytes:
    """Return an encoded term in its compressed form if that is shorter, else unchanged."""
    body = memoryview(encoded)[1:]
    body_deflated = zlib.compress(body, level)
    if len(body_deflated) + 5 < len(body) < 2**32:
        return b"".join((_VERSION, _pack_tag_u32(tags.COMPRESSED, len(body)), body_deflated))
    return encoded


def frame_length(size: int, packet: int) -> bytes:
    """Return the length prefix of a frame of ``size`` bytes.

    Raises:
        EncodeError: ``size`` does not fit in ``packet`` bytes.
        ValueError: ``packet`` is not 1, 2 or 4.
    """
    if packet not in PACKET_SIZES:
        raise ValueError(f"expected a packet size of 1, 2 or 4, got {packet!r}")
    max_size = (1 << 8 * packet) - 1
    if size > max_size:
        raise EncodeError(
            f"an answer of {size} bytes does not fit in a frame of at most {max_size}; start the port with packet: 4"
        )
    return size.to_bytes(packet, "big")


class _NoTermError(Exception):
    """The reason why a value cannot be encoded, without its path.

    ``of_container`` means that the reason concerns the innermost open container, not the current item.
    """

    def __init__(self, reason: str, *, of_container: bool = False) -> None:
        self.of_container = of_container
        super().__init__(reason)


# How a value is written: its first bytes, its children (elements, or keys and values in turn), and the bytes behind
# them. Plain tuples, here and below: a named tuple takes several times as long to make, and each container needs two.
_Opening: TypeAlias = tuple[bytes, tuple[Term, ...], bytes]

# A container that is being written: the value itself, its opening, and an iterator over the children still to write.
_Frame: TypeAlias = tuple[Term, _Opening, Iterator[Term]]


class _AtomsAsBytes(dict[str, bytes]):
    """A cache of encoded atoms by name; a missing atom is encoded and cached."""

    def __missing__(self, name: str) -> bytes:
        if len(name) > MAX_ATOM_CHARACTERS:
            raise _NoTermError(f"an atom of {len(name)} characters; {MAX_ATOM_CHARACTERS} are allowed")
        raw = name.encode()
        if len(raw) < 256:
            encoded = bytes([tags.SMALL_ATOM_UTF8, len(raw)]) + raw
        else:
            encoded = _pack_tag_u16(tags.ATOM_UTF8, len(raw)) + raw
        if len(self) < _MAX_CACHED_ATOMS:
            self[name] = encoded
        return encoded


_ATOMS: Final = _AtomsAsBytes()
_NIL_ATOM: Final = _ATOMS["nil"]


def _write(term: Term, parts: list[bytes], max_depth: int) -> None:
    """Append the bytes of a term, without a version byte, to ``parts``."""
    append = parts.append
    around: list[_Frame] = []  # the containers around the one being written, the outermost first
    frame: _Frame = (None, (b"", (term,), b""), iter((term,)))
    rest = frame[2]
    item = term
    try:
        while True:
            for item in rest:
                kind = type(item)
                if kind is str:
                    raw = item.encode()
                    size = len(raw)
                    append(_BINARY_HEADERS[size] if size < 256 else _pack_tag_u32(tags.BINARY, size))
                    append(raw)
                elif kind is int:
                    append(_SMALL_INTEGERS[item] if 0 <= item < 256 else _integer(item))
                elif kind is float:
                    append(_float(item))
                elif kind is Atom:
                    append(_ATOMS[item])
                elif item is None:
                    append(_NIL_ATOM)
                else:
                    opening = _open(item)
                    append(opening[0])
                    if opening[1]:
                        if len(around) >= max_depth:
                            raise _NoTermError(_too_deep(item, [*around, frame], max_depth))
                        around.append(frame)
                        rest = _children(opening, parts)
                        frame = (item, opening, rest)
                        break
            else:
                append(frame[1][2])
                if not around:
                    return
                frame = around.pop()
                rest = frame[2]
    except (_NoTermError, EncodeError) as error:
        of_container = isinstance(error, _NoTermError) and error.of_container
        raise EncodeError(str(error), _path([*around, frame], None if of_container else item)) from None
    except UnicodeEncodeError as error:
        reason = f"a lone surrogate at character {error.start} of a text, which is not Unicode"
        raise EncodeError(reason, _path([*around, frame], item)) from None
    except struct.error:
        raise EncodeError("a value of more than 4 GiB or elements", _path([*around, frame], item)) from None


def _integer(number: int) -> bytes:
    if -0x8000_0000 <= number <= 0x7FFF_FFFF:
        return _pack_integer(tags.INTEGER, number)
    absolute = abs(number)
    digits = absolute.to_bytes((absolute.bit_length() + 7) // 8, "little")
    sign = b"\x01" if number < 0 else b"\x00"
    if len(digits) < 256:
        return bytes([tags.SMALL_BIG, len(digits)]) + sign + digits
    return _pack_tag_u32(tags.LARGE_BIG, len(digits)) + sign + digits


def _float(number: float) -> bytes:
    if math.isfinite(number):
        return _pack_float(tags.NEW_FLOAT, number)
    # The BEAM has neither NaN nor infinities, and refuses a whole frame that holds one.
    if math.isnan(number):
        return _ATOMS["nan"]
    return _ATOMS["infinity" if number > 0 else "neg_infinity"]


def _binary(raw: bytes) -> bytes:
    return _pack_tag_u32(tags.BINARY, len(raw)) + raw


def _open(item: Term) -> _Opening:
    """Return the opening of a value that the loop does not write itself.

    Containers are copied here: their length is written first, and another thread may change them meanwhile.
    """
    kind = type(item)
    if kind is dict:
        children = tuple(chain.from_iterable(item.items()))
        return _pack_tag_u32(tags.MAP, len(children) // 2), children, b""
    if kind is list:
        return _open_list(tuple(item))
    if kind is tuple:
        size = len(item)
        return bytes([tags.SMALL_TUPLE, size]) if size < 256 else _pack_tag_u32(tags.LARGE_TUPLE, size), item, b""
    if kind is bool:
        return _ATOMS["true" if item else "false"], (), b""
    if kind is bytes:
        return _binary(item), (), b""
    if kind is ImproperList:
        return _pack_tag_u32(tags.LIST, len(item.items)), (*item.items, item.tail), b""
    if isinstance(item, IDENTIFIERS):
        return identifier(item), (), b""
    return _open_plain(plain(item))


def _open_list(items: tuple[Term, ...]) -> _Opening:
    if not items:
        return _NIL, (), b""
    # A list of bytes has a form of its own, STRING_EXT. True and 1 are different terms, so the types are compared.
    if type(items[0]) is int and len(items) <= 0xFFFF and set(map(type, items)) == {int}:
        try:
            return _pack_tag_u16(tags.STRING, len(items)) + bytes(items), (), b""
        except ValueError:  # an integer beyond 0..255
            pass
    return _pack_tag_u32(tags.LIST, len(items)), items, _NIL


def _open_plain(item: Term) -> _Opening:
    kind = type(item)
    if kind is str:
        return _binary(item.encode()), (), b""
    if kind is int:
        return (_SMALL_INTEGERS[item] if 0 <= item < 256 else _integer(item)), (), b""
    if kind is float:
        return _float(item), (), b""
    return _open(item)


def _children(opening: _Opening, parts: list[bytes]) -> Iterator[Term]:
    head, children, _ = opening
    if head[0] != tags.MAP or _DISTINCT_KEYS.issuperset(map(type, children[::2])):
        return iter(children)
    return _children_with_distinct_keys(children, parts)


def _children_with_distinct_keys(children: tuple[Term, ...], parts: list[bytes]) -> Iterator[Term]:
    """Yield keys and values in turn; then compare the encoded keys, and raise if two are the same term."""
    starts = []
    for child in children:
        starts.append(len(parts))
        yield child
    key_of: dict[bytes, Term] = {}
    for index in range(0, len(children), 2):
        raw = b"".join(parts[starts[index] : starts[index + 1]])
        if raw in key_of:
            same = f"{shown(key_of[raw])} and {shown(children[index])}"
            raise _NoTermError(f"a map with the keys {same}, which are one key in Erlang", of_container=True)
        key_of[raw] = children[index]


def _too_deep(item: Term, frames: list[_Frame], max_depth: int) -> str:
    if any(owner is item for owner, _, _ in frames):
        return "a container that contains itself"
    return f"a value that nests deeper than {max_depth} levels"


def _path(frames: list[_Frame], item: Term) -> str:
    """Return the path to ``item``, a child of the last frame, such as ``["answer"][3]``; for ``None``, to that frame.

    Each step is found by identity: the first child that is the very object. An equal object further on would be as
    wrong, and the encoder would not have reached it.
    """
    steps = []
    owners = [owner for owner, _, _ in frames[1:]]
    children_on_the_way = owners if item is None else [*owners, item]
    # The outermost frame is no container of the caller: its only child is the term itself.
    for (_, (head, children, _), _), child in list(zip(frames, children_on_the_way, strict=False))[1:]:
        index = next(index for index, candidate in enumerate(children) if candidate is child)
        if head[0] != tags.MAP:
            steps.append(f"[{index}]")
        elif index % 2:
            steps.append(f"[{shown_key(children[index - 1])}]")
        else:
            steps.append(f"[key {shown_key(child)}]")
    return path_text(steps)
