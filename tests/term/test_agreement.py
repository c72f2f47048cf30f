"""Test that the compiled codec agrees with the reference: in results to the last bit, in errors to the last word."""

import enum
import math
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erlport_bridge.errors import DecodeError, EncodeError
from erlport_bridge.term import (
    Atom,
    FrozenList,
    FrozenMap,
    ImproperList,
    OtpErlangBinary,
    OtpErlangPid,
    OtpErlangReference,
    pure,
)
from tests.term.exact import exact
from tests.term.strategies import keys, ordinary_terms, scalars, structs, terms

TAGS = [*range(97, 122), 70, 77, 80, 82, 88, 89, 90]
FILES = ("terms-otp25.tsv", "terms-otp27.tsv", "terms-corners.tsv", "terms-by-hand.tsv", "terms-elixir.tsv")


class Level(enum.IntEnum):
    """An enumeration of integers."""

    LOW = 1
    HUGE = 2**70


class Word(str, enum.Enum):
    """An enumeration of texts."""

    YES = "yes"


class Text(str):
    """A subclass of ``str``."""


class Real(float):
    """A subclass of ``float``."""


class Backwards(list[Any]):
    """A list whose iterator yields other items than it holds."""

    def __iter__(self) -> Any:
        return reversed(list(self[:]))


class Short(dict[Any, Any]):
    """A map whose ``len`` is wrong."""

    def __len__(self) -> int:
        return 0


@dataclass
class Record:
    """An object that cannot be encoded or hashed."""

    field: int = 1


Point = namedtuple("Point", "x y")  # untyped, as in users' code


def decoded(codec: ModuleType, data: Any, **limits: int) -> Any:
    """Return the outcome of decoding: the exact value, or the error with its message and place."""
    try:
        return exact(codec.decode(data, **limits))
    except DecodeError as error:
        return DecodeError, error.reason, error.offset


def encoded(codec: ModuleType, term: Any, **options: int) -> Any:
    """Return the outcome of encoding: the bytes, or the error with its message and path."""
    try:
        return codec.encode(term, **options)
    except EncodeError as error:
        return EncodeError, error.reason, error.path


def agreed_bytes(compiled: ModuleType, term: Any, **options: int) -> Any:
    result = encoded(compiled, term, **options)
    assert result == encoded(pure, term, **options)
    return result


def agreed_term(compiled: ModuleType, data: Any, **limits: int) -> Any:
    result = decoded(compiled, data, **limits)
    assert result == decoded(pure, data, **limits)
    return result


# Values of classes that the decoder never returns, values that cannot be encoded, and values that become the same term.
odd_scalars = st.one_of(
    st.sampled_from([Level.LOW, Level.HUGE, Word.YES, Text("text"), Text("é\ud800"), Real(1.5), Real("nan")]),
    st.sampled_from(["\ud800", "a\udfff", Atom("\ud800"), Atom("a" * 255), Atom("é" * 255), Atom("a" * 256)]),
    st.sampled_from([Atom("nil"), Atom("true"), Atom("false"), None, True, False, 0, 1, 0.0, -0.0, 1.0]),
    st.sampled_from(["a", b"a", Atom("a"), b"\xff", "", b"", Atom("")]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1j, object, Ellipsis, frozenset(), frozenset([1]), Point(1, "y")]),
    st.just(OtpErlangBinary(b"text")),
)
malformed = st.sampled_from(
    [OtpErlangBinary(b"", 3), OtpErlangPid(None, b"", b"", b""), OtpErlangReference(None, b"1234", b"12")]
)
unhashable = st.sampled_from(
    [bytearray(b"\xff"), memoryview(b"text"), memoryview(b"abcdef")[::2], Record(), Backwards([1, 2, 300]), Short(a=1)]
)
odd_keys = st.recursive(
    odd_scalars | keys,
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.lists(inner, max_size=2).map(FrozenList),
    max_leaves=4,
)


def odd_containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    maps = st.dictionaries(odd_keys, inner, max_size=4)
    lists = st.lists(inner, max_size=4)
    return st.one_of(
        lists,
        maps,
        lists.map(tuple),
        lists.map(FrozenList),
        lists.map(Backwards),
        maps.map(OrderedDict),
        maps.map(FrozenMap),
        maps.map(Short),
        maps.map(lambda fields: defaultdict(list, fields)),
        st.sets(odd_keys, max_size=3),
        st.builds(ImproperList, st.lists(inner, min_size=1, max_size=3), scalars),
        st.builds(Point, inner, inner),
    )


odd_terms = st.recursive(odd_scalars | malformed | unhashable | scalars | structs, odd_containers, max_leaves=12)

# Bytes that often begin like a term.
pieces = st.one_of(
    st.sampled_from(TAGS).map(lambda tag: bytes([tag])),
    st.integers(0, 9).map(lambda size: size.to_bytes(4, "big")),
    st.sampled_from(
        [b"\x00\x02", b"a\x01", b"w\x01a", b"w\x03nil", b"m\x00\x00\x00\x01a", b"j", b"d\x00\x01\xe9", b"n\x01"]
    ),
    st.sampled_from([b"h\x02", b"l\x00\x00\x00\x01", b"t\x00\x00\x00\x01", b"k\x00\x01", b"w\x0f$erlport.opaque"]),
    st.binary(max_size=4),
)
bytes_like_terms = st.lists(pieces, max_size=12).map(b"".join)


@given(term=terms)
@settings(max_examples=250)
def test_both_write_the_same_bytes_and_read_the_same_term(compiled: ModuleType, term: Any) -> None:
    agreed_term(compiled, agreed_bytes(compiled, term))


@given(term=odd_terms)
@settings(max_examples=350)
def test_both_encode_or_refuse_any_python_value_alike(compiled: ModuleType, term: Any) -> None:
    result = agreed_bytes(compiled, term)
    if type(result) is bytes:
        agreed_term(compiled, result)


@given(term=odd_terms, max_depth=st.integers(0, 4))
@settings(max_examples=250)
def test_both_keep_the_same_limit_of_depth(compiled: ModuleType, term: Any, max_depth: int) -> None:
    agreed_bytes(compiled, term, max_depth=max_depth)
    whole = agreed_bytes(compiled, term)
    if type(whole) is bytes:
        agreed_term(compiled, whole, max_depth=max_depth)


@given(term=terms, packet=st.sampled_from([0, 1, 2, 4]), level=st.integers(0, 9))
@settings(max_examples=150)
def test_both_make_the_same_frames(compiled: ModuleType, term: Any, packet: int, level: int) -> None:
    agreed_bytes(compiled, term, packet=packet, compressed=level)


@given(term=terms, level=st.integers(1, 9), cut=st.integers(0, 30), max_bytes=st.integers(0, 200))
@settings(max_examples=150)
def test_both_inflate_the_same(compiled: ModuleType, term: Any, level: int, cut: int, max_bytes: int) -> None:
    data = compiled.encode([term, "z" * 200], compressed=level)
    agreed_term(compiled, data)
    agreed_term(compiled, data, max_bytes=max_bytes)
    agreed_term(compiled, data[: len(data) - cut])


@given(term=terms)
@settings(max_examples=30)
def test_both_name_the_same_byte_where_a_term_is_cut(compiled: ModuleType, term: Any) -> None:
    data = pure.encode(term)
    for size in range(len(data)):
        assert agreed_term(compiled, data[:size])[0] is DecodeError


@given(term=terms, damage=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=350)
def test_both_decode_or_refuse_a_damaged_term_alike(
    compiled: ModuleType, term: Any, damage: list[tuple[int, int]]
) -> None:
    raw = bytearray(pure.encode(term))
    for place, byte in damage:
        raw[place % len(raw)] = byte
    for data in (bytes(raw), raw, memoryview(raw)):
        agreed_term(compiled, data)


@given(raw=bytes_like_terms)
@settings(max_examples=500)
def test_both_decode_or_refuse_any_bytes_alike(compiled: ModuleType, raw: bytes) -> None:
    agreed_term(compiled, b"\x83" + raw)


def test_both_agree_on_every_row_of_the_conformance_data(
    compiled: ModuleType, rows: Callable[[str], Any], refused_rows: list[Any]
) -> None:
    for row in [row for file_name in FILES for row in rows(file_name)] + refused_rows:
        result = agreed_term(compiled, row.encoded)
        if result[0] is not DecodeError:
            agreed_bytes(compiled, compiled.decode(row.encoded))


@pytest.mark.parametrize("closing", [lambda deep: [deep], lambda deep: (deep,), lambda deep: {"a": deep}])
def test_both_agree_on_cycles_and_on_the_deepest_term(compiled: ModuleType, closing: Callable[[Any], Any]) -> None:
    cycle: list[Any] = [1]
    cycle.append(closing(cycle))
    assert agreed_bytes(compiled, cycle)[0] is EncodeError
    deep: Any = 300
    for _ in range(512):
        deep = closing(deep)
    data = agreed_bytes(compiled, deep)
    assert compiled.encode(compiled.decode(data)) == data
    assert agreed_bytes(compiled, closing(deep))[0] is EncodeError
    assert decoded(compiled, data, max_depth=511) == decoded(pure, data, max_depth=511)


@pytest.mark.parametrize("data", [None, "text", 5, [131, 97, 1], b"\x83a\x01"[::1], memoryview(b"\x83x ax\x01")[::2]])
def test_both_take_the_same_objects_for_bytes(compiled: ModuleType, data: Any) -> None:
    def outcome(codec: ModuleType) -> Any:
        try:
            return decoded(codec, data)
        except TypeError:
            return TypeError

    assert outcome(compiled) == outcome(pure)


@given(term=ordinary_terms)
@settings(max_examples=250)
def test_compiled_codec_leaves_no_ordinary_term_to_the_reference(compiled: ModuleType, term: Any) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("left to the reference")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "reference", SimpleNamespace(decode=refuse, encode=refuse))
        with pytest.raises(AssertionError, match="left to the reference"):
            compiled.decode(b"\x83\xc8")  # shows that a fallback to the reference would be noticed
        for packet in (0, 4):
            data = compiled.encode(term, packet=packet)
            assert exact(compiled.decode(data[packet:])) == exact(term)


def test_compiled_codec_leaves_only_rare_terms_of_the_beam_to_the_reference(
    compiled: ModuleType, rows: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row that a current BEAM writes, except refused rows, is decoded by the compiled codec itself."""
    left: list[str] = []

    def note(*_args: Any, **_options: Any) -> None:
        left.append(row.name)

    monkeypatch.setattr(compiled, "reference", SimpleNamespace(decode=note, encode=note))
    for row in rows("terms-corners.tsv"):
        term = compiled.decode(row.encoded)
        if term is not None:
            compiled.encode(term)
    assert left == []
