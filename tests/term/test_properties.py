"""Test properties of all terms and all bytes, for each codec; `test_agreement` compares the two codecs."""

import math
import os
import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import erlang
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erlport_bridge.errors import DecodeError, TermError
from erlport_bridge.term import Atom, ImproperList, OtpErlangBinary, decode_elements
from tests.term.elixir_source import elixir_source
from tests.term.exact import exact
from tests.term.strategies import mapless_terms, terms

Ask = Callable[[str], str]

RANDOM_TERMS = 400


@given(term=terms)
def test_term_comes_back_equal_and_then_byte_for_byte(codec: ModuleType, term: Any) -> None:
    encoded = codec.encode(term)
    decoded = codec.decode(encoded)
    assert decoded == term
    assert exact(decoded) == exact(codec.decode(codec.encode(decoded)))
    assert type(decoded) is type(term)
    assert codec.decode(codec.encode(term, compressed=6)) == term


@given(term=mapless_terms)
def test_term_without_maps_comes_back_with_the_same_types_and_bits(codec: ModuleType, term: Any) -> None:
    assert exact(codec.decode(codec.encode(term))) == exact(term)


@given(term=terms)
@settings(max_examples=40)
def test_term_that_ends_early_is_an_error_at_every_byte(codec: ModuleType, term: Any) -> None:
    encoded = codec.encode(term)
    for size in range(len(encoded)):
        with pytest.raises(DecodeError) as raised:
            codec.decode(encoded[:size])
        assert 0 <= raised.value.offset <= size


@given(term=terms, rest=st.binary(min_size=1, max_size=5))
@settings(max_examples=40)
def test_trailing_bytes_are_an_error(codec: ModuleType, term: Any, rest: bytes) -> None:
    encoded = codec.encode(term)
    with pytest.raises(DecodeError) as raised:
        codec.decode(encoded + rest)
    assert raised.value.offset == len(encoded)


@given(raw=st.binary(max_size=60))
@settings(max_examples=1_000)
def test_any_bytes_are_a_term_or_a_decode_error(codec: ModuleType, raw: bytes) -> None:
    for read in (codec.decode, lambda data: decode_elements(data, 2)):
        try:
            read(b"\x83" + raw)
        except DecodeError as error:
            offset = error.offset
        else:
            offset = 0
        assert 0 <= offset <= len(raw) + 1


@given(term=terms, damage=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500)
def test_damaged_term_is_a_term_or_a_decode_error(codec: ModuleType, term: Any, damage: list[tuple[int, int]]) -> None:
    raw = bytearray(codec.encode(term))
    for place, byte in damage:
        raw[1 + place % (len(raw) - 1)] = byte
    try:
        decoded = codec.decode(raw)
    except DecodeError:
        return
    assert codec.encode(decoded)  # an accepted term can be sent


@given(first=terms, others=st.lists(terms, max_size=3))
@settings(max_examples=50)
def test_first_elements_are_those_of_the_whole(codec: ModuleType, first: Any, others: list[Any]) -> None:
    encoded = codec.encode((first, *others))
    for count in range(len(others) + 2):
        assert decode_elements(encoded, count) == (first, *others)[:count]


@given(number=st.floats())
def test_floats_keep_every_bit(codec: ModuleType, number: float) -> None:
    if math.isfinite(number):
        assert codec.decode(codec.encode(number)).hex() == number.hex()
    else:
        assert isinstance(codec.decode(codec.encode(number)), Atom)


def as_erlang_py(term: Any) -> Any:
    """Return a term as erlang-py decodes it, if erlang-py decodes it correctly."""
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


@given(term=mapless_terms)
def test_erlang_py_writes_the_same_bytes(codec: ModuleType, term: Any) -> None:
    assert erlang.term_to_binary(as_erlang_py(term)) == codec.encode(term)


@given(term=mapless_terms)
def test_erlang_py_reads_the_same_term(codec: ModuleType, term: Any) -> None:
    """The terms are compared as bytes, since erlang-py's classes raise when they are compared with other classes."""
    encoded = codec.encode(term)
    assert erlang.term_to_binary(erlang.binary_to_term(encoded)) == encoded


@pytest.mark.usefixtures("elixir_of_the_beam")
@given(batch=st.lists(terms, min_size=10, max_size=20))
@settings(max_examples=20)
def test_beam_reads_the_term_of_the_source_and_sends_it_back(
    codec: ModuleType, ask_beam: Ask, batch: list[Any]
) -> None:
    """The source defines the term, independently of its bytes; the BEAM compares, and encodes the evaluated term."""
    for term in batch:
        source = elixir_source(term)
        answer = ask_beam(f"source {codec.encode(term).hex()} {source}")
        assert answer.startswith("83"), f"{source}: {answer}"
        assert codec.decode(bytes.fromhex(answer)) == term


@given(batch=st.lists(mapless_terms, min_size=10, max_size=20))
@settings(max_examples=15)
def test_beam_writes_the_same_bytes(codec: ModuleType, ask_beam: Ask, batch: list[Any]) -> None:
    for term in batch:
        assert ask_beam(codec.encode(term).hex()) == codec.encode(term).hex()


def refusal(codec: ModuleType, data: bytes) -> str | None:
    """Return the end of the reason why bytes are refused."""
    try:
        codec.decode(data)
    except DecodeError as error:
        return error.reason[-len("one key in Python") :]
    return None


@pytest.mark.usefixtures("elixir_of_the_beam")
def test_random_terms_of_the_beam_come_back_as_the_same_terms(codec: ModuleType, ask_beam: Ask) -> None:
    """To reproduce a failure, set TERM_SEED to the seed in its message: its term is then the first."""
    first_seed = int(os.environ.get("TERM_SEED") or random.SystemRandom().randrange(2**40))
    sent_back = 0
    for seed in range(first_seed, first_seed + RANDOM_TERMS):
        text, keys = ask_beam(f"random {seed}").split()
        if keys == "merged":
            assert refusal(codec, bytes.fromhex(text)) == "one key in Python", f"TERM_SEED={seed}"
            continue
        try:
            encoded = codec.encode(codec.decode(bytes.fromhex(text)))
        except TermError as error:
            pytest.fail(f"{error}, TERM_SEED={seed}")
        assert ask_beam(f"again {encoded.hex()}") == "true", f"TERM_SEED={seed}"
        sent_back += 1
    assert sent_back > RANDOM_TERMS // 2


def seconds(work: Callable[[Any], Any], argument: Any) -> float:
    durations = []
    for _ in range(3):
        started = time.thread_time()
        work(argument)
        durations.append(time.thread_time() - started)
    return min(durations)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: [300] * size,
        lambda size: {f"key {number}": number for number in range(size)},
        lambda size: [b"\xff" * 100] * size,
        lambda size: [{"a": [number, 300]} for number in range(size)],
    ],
)
def test_time_grows_with_the_size_and_not_with_its_square(codec: ModuleType, make: Callable[[int], Any]) -> None:
    """64 times the size would take 4,096 times as long if the time were quadratic.

    The bound is far below that, and far above the effect of memory: a small term's memory is in the cache, and has been
    cleared before. ``make bench`` shows how time grows when terms of all sizes need new memory from the system.
    """
    small, large = make(2_500), make(160_000)
    assert seconds(codec.encode, large) < 1_000 * seconds(codec.encode, small)
    small, large = codec.encode(small), codec.encode(large)
    assert seconds(codec.decode, large) < 1_000 * seconds(codec.decode, small)
