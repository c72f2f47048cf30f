"""What must hold for any term and for any bytes."""

import math
import time
from collections.abc import Callable
from datetime import timezone
from typing import Any

import erlang
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erlport_bridge.errors import DecodeError
from erlport_bridge.term import (
    Atom,
    ImproperList,
    OtpErlangBinary,
    OtpErlangPid,
    OtpErlangReference,
    decode,
    decode_elements,
    encode,
)

NODE = erlang.OtpErlangAtom("ł@b")


texts = st.text(max_size=20)
no_texts = st.binary(max_size=20).map(lambda raw: b"\xff" + raw)  # 255 occurs in no UTF-8
atoms = st.text(max_size=20).filter(lambda name: name not in ("nil", "true", "false")).map(Atom)
large_integers = st.integers(240, 270).flatmap(lambda size: st.integers(-9, 9).map(lambda factor: factor * 256**size))
integers = st.integers() | st.integers(-300, 300) | large_integers
floats = st.floats(allow_nan=False, allow_infinity=False)
identifiers = st.one_of(
    st.builds(OtpErlangPid, st.just(NODE), *[st.binary(min_size=4, max_size=4)] * 3),
    st.builds(OtpErlangReference, st.just(NODE), st.sampled_from([b"12345678", b"1234"]), st.just(b"\0\0\0\1")),
    st.builds(OtpErlangBinary, st.binary(max_size=5).map(lambda raw: raw + b"\x80"), st.integers(1, 7)),
)
keys = texts | atoms | integers | no_texts | st.tuples(texts, st.integers())
plain_scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts, no_texts, atoms, identifiers)
structs = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=st.just(timezone.utc)),
    st.dates(),
    st.times(),
    st.decimals(allow_nan=False),
    st.sets(keys, max_size=4),
    st.builds(range, st.integers(), st.integers(), st.integers(-9, 9).filter(bool)),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(st.integers(0, 255)),
        st.lists(inner, max_size=5).map(tuple),
        st.builds(ImproperList, st.lists(inner, min_size=1, max_size=3), plain_scalars | st.tuples(inner)),
    )


def maps(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, inner, max_size=5)


mapless_terms = st.recursive(plain_scalars, containers, max_leaves=20)
terms = st.recursive(plain_scalars | structs, lambda inner: containers(inner) | maps(inner), max_leaves=20)


@given(terms)
def test_term_comes_back_equal_and_then_byte_for_byte(term: Any) -> None:
    encoded = encode(term)
    decoded = decode(encoded)
    assert decoded == term
    assert type(decoded) is type(term)
    assert decode(encode(term, compressed=6)) == term


@given(terms)
@settings(max_examples=40)
def test_term_that_ends_early_is_an_error_at_every_byte(term: Any) -> None:
    encoded = encode(term)
    for size in range(len(encoded)):
        with pytest.raises(DecodeError) as raised:
            decode(encoded[:size])
        assert 0 <= raised.value.offset <= size


@given(terms, st.binary(min_size=1, max_size=5))
@settings(max_examples=40)
def test_trailing_bytes_are_an_error(term: Any, rest: bytes) -> None:
    encoded = encode(term)
    with pytest.raises(DecodeError) as raised:
        decode(encoded + rest)
    assert raised.value.offset == len(encoded)


@given(st.binary(max_size=60))
@settings(max_examples=1_000)
def test_any_bytes_are_a_term_or_a_decode_error(raw: bytes) -> None:
    for read in (decode, lambda data: decode_elements(data, 2)):
        try:
            read(b"\x83" + raw)
        except DecodeError as error:
            offset = error.offset
        else:
            offset = 0
        assert 0 <= offset <= len(raw) + 1


@given(terms, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500)
def test_damaged_term_is_a_term_or_a_decode_error(term: Any, damage: list[tuple[int, int]]) -> None:
    raw = bytearray(encode(term))
    for place, byte in damage:
        raw[1 + place % (len(raw) - 1)] = byte
    try:
        decoded = decode(raw)
    except DecodeError:
        return
    assert encode(decoded)  # what was accepted can be sent


@given(terms, st.lists(terms, max_size=3))
@settings(max_examples=50)
def test_first_elements_are_those_of_the_whole(first: Any, others: list[Any]) -> None:
    encoded = encode((first, *others))
    for count in range(len(others) + 2):
        assert decode_elements(encoded, count) == (first, *others)[:count]


def as_erlang_py(term: Any) -> Any:
    """Give what erlang-py makes of a term, for those terms that it reads rightly."""
    if isinstance(term, Atom):
        return erlang.OtpErlangAtom(str(term))
    if term is None:
        return erlang.OtpErlangAtom("nil")
    if isinstance(term, str | bytes):
        return OtpErlangBinary(term.encode() if isinstance(term, str) else term)
    if isinstance(term, list):
        if term and len(term) < 65_536 and all(type(item) is int and 0 <= item < 256 for item in term):
            return bytes(term)
        return [as_erlang_py(item) for item in term]
    if isinstance(term, tuple):
        return tuple(as_erlang_py(item) for item in term)
    if isinstance(term, ImproperList):
        return erlang.OtpErlangList([as_erlang_py(item) for item in (*term.items, term.tail)], improper=True)
    return term


@given(mapless_terms)
def test_erlang_py_writes_the_same_bytes(term: Any) -> None:
    assert erlang.term_to_binary(as_erlang_py(term)) == encode(term)


@given(batch=st.lists(terms, min_size=10, max_size=20))
@settings(max_examples=15, deadline=None)
def test_beam_gives_back_the_same_terms(ask_beam: Callable[[str], str], batch: list[Any]) -> None:
    for term in batch:
        assert decode(bytes.fromhex(ask_beam(encode(term).hex()))) == term


@given(batch=st.lists(mapless_terms, min_size=10, max_size=20))
@settings(max_examples=15, deadline=None)
def test_beam_writes_the_same_bytes(ask_beam: Callable[[str], str], batch: list[Any]) -> None:
    for term in batch:
        assert ask_beam(encode(term).hex()) == encode(term).hex()


@given(st.floats())
def test_floats_keep_every_bit(number: float) -> None:
    if math.isfinite(number):
        assert decode(encode(number)).hex() == number.hex()
    else:
        assert isinstance(decode(encode(number)), Atom)


def seconds(work: Callable[[Any], Any], argument: Any) -> float:
    runs = []
    for _ in range(3):
        started = time.perf_counter()
        work(argument)
        runs.append(time.perf_counter() - started)
    return min(runs)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: [300] * size,
        lambda size: {f"key {number}": number for number in range(size)},
        lambda size: [b"\xff" * 100] * size,
        lambda size: [{"a": [number, 300]} for number in range(size)],
    ],
)
def test_time_grows_with_the_size_and_not_with_its_square(make: Callable[[int], Any]) -> None:
    """Sixteen times the size: about 16 times the time, 256 times if it were quadratic."""
    small, large = make(5_000), make(80_000)
    assert seconds(encode, large) < 80 * seconds(encode, small)
    assert seconds(decode, encode(large)) < 80 * seconds(decode, encode(small))
