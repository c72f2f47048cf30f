"""Test how much memory decoding and encoding take, and that they leak none."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timezone
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from erlport_bridge.errors import DecodeError, EncodeError
from erlport_bridge.term import Atom, ImproperList, OtpErlangBinary, pure
from fuzzing.checks import ALLOWED_BESIDE, ALLOWED_PER_BYTE
from tests.proc import proc

MIB = 1024 * 1024
FRAME_BYTES = 20

# Round trips of all kinds together. The reference is so much slower that it gets fewer.
ROUND_TRIPS, ROUND_TRIPS_OF_REFERENCE = 1_000_000, 50_000

# Blocks that a whole test may leave: caches that the interpreter fills on the way. A leak leaves thousands.
FEW_BLOCKS = 100
FEW_BYTES = 4 * MIB

LENGTH_BEHIND = {
    "binary": b"m",
    "list": b"l",
    "tuple": b"i",
    "map": b"t",
    "integer": b"o",
    "bitstring": b"M",
    "fun": b"u",
    "new_fun": b"p",
    "compressed": b"P",
}
SHORT_LENGTH_BEHIND = {
    "string": b"k",
    "atom": b"d",
    "atom_utf8": b"v",
    "reference": b"r",
    "newer_reference": b"Z",
}
TINY_LENGTH_BEHIND = {"small_tuple": b"h", "small_integer": b"n", "small_atom": b"s", "small_atom_utf8": b"w"}


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the peak of Python's allocations during a call, beyond the allocations before, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peak_of_refusal(codec: ModuleType, data: bytes, **options: int) -> int:
    def refuse() -> None:
        with pytest.raises(DecodeError):
            codec.decode(data, **options)

    refuse()  # not measured: the first error of a kind compiles patterns and fills caches
    return peak_bytes(refuse)


def heads_that_lie() -> Iterator[Any]:
    for heads, length in (
        (LENGTH_BEHIND, b"\xff" * 4),
        (SHORT_LENGTH_BEHIND, b"\xff" * 2),
        (TINY_LENGTH_BEHIND, b"\xff"),
    ):
        for name, tag in heads.items():
            yield pytest.param(tag + length, id=name)
    yield pytest.param(b"P" + (256 * MIB).to_bytes(4, "big"), id="compressed_as_long_as_is_allowed")
    yield pytest.param(b"M" + b"\xff" * 4 + b"\x07", id="bitstring_of_seven_bits")


@pytest.mark.parametrize("around", [b"", b"h\x02", b"l\x00\x00\x00\x01", b"t\x00\x00\x00\x01"])
@pytest.mark.parametrize("head", list(heads_that_lie()))
def test_declared_length_that_is_not_there_costs_nothing(codec: ModuleType, head: bytes, around: bytes) -> None:
    data = (b"\x83" + around + head).ljust(FRAME_BYTES, b"\x00")
    assert peak_of_refusal(codec, data) < MIB


@pytest.mark.parametrize("head", ["list", "tuple", "map", "fun"])
def test_containers_that_each_declare_the_rest_of_the_frame_cost_no_more_than_is_allowed(
    codec: ModuleType, head: str
) -> None:
    levels, size = 500, 32_768
    data = b"\x83"
    for _ in range(levels):
        left = size - len(data) - 5
        count = {"list": left - 1, "tuple": left, "map": left // 2, "fun": left - 4}[head]
        data += LENGTH_BEHIND[head] + count.to_bytes(4, "big")
    data += b"a\x00" * ((size - len(data)) // 2)
    assert peak_of_refusal(codec, data) < ALLOWED_PER_BYTE * size + ALLOWED_BESIDE


def compressed(body: bytes, declared: int) -> bytes:
    return b"\x83P" + declared.to_bytes(4, "big") + zlib.compress(body, 9)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Return the compressed form of a binary of 64 MiB, without its head: 64 KiB."""
    size = 64 * MIB
    return zlib.compress(b"m" + size.to_bytes(4, "big") + bytes(size), 9)


def test_bomb_stops_at_the_size_that_it_declares(codec: ModuleType, bomb: bytes) -> None:
    data = b"\x83P" + (1000).to_bytes(4, "big") + bomb
    assert peak_of_refusal(codec, data) < MIB


def test_bomb_with_the_right_declared_size_stops_at_the_limit(codec: ModuleType, bomb: bytes) -> None:
    data = b"\x83P" + (64 * MIB + 5).to_bytes(4, "big") + bomb
    assert peak_of_refusal(codec, data, max_bytes=64 * MIB + 4) < MIB
    # Within the limit it is decoded like any term: the memory of the inflated bytes, and of the text made of them.
    assert peak_bytes(lambda: codec.decode(data, max_bytes=64 * MIB + 5)) < 4 * 64 * MIB


@pytest.mark.parametrize("lie", [-2, -1, 1, 2, 1000])
def test_compressed_term_with_a_wrong_size_is_refused(codec: ModuleType, lie: int) -> None:
    body = codec.encode(["a" * 100, {"b": 1}])[1:]
    assert codec.decode(compressed(body, len(body))) == ["a" * 100, {"b": 1}]
    with pytest.raises(DecodeError) as refusal:
        codec.decode(compressed(body, len(body) + lie))
    assert refusal.value.offset == 2


FREQUENT: dict[str, Any] = {
    "call": (Atom("C"), 7, Atom("dspy_bridge"), Atom("ping"), ["text", 300, None, True, False]),
    "map": {"answer": "yes", "score": 0.5, Atom("usage"): {"total": 12}, "list": [1, 2, 300]},
    "map_of_integers": {1: "a", 300: [], -1: ()},
    "integers": list(range(250, 350)),
    "bytes_as_list": list(range(100)),
    "floats": [0.5] * 100,
    "large_integers": [2**40, -(2**63), 2**64],
    "binaries": ["", "a", "łódź", b"\xff\x00", "x" * 600],
    "atoms": [Atom("ok"), Atom("error"), Atom("łódź"), None, True, False],
    "nested": [[[[[[("a", [{}])]]]]]],
    "empty": [[], (), {}, ""],
    "wide_tuple": tuple(range(300)),
}
RARE: dict[str, Any] = {
    "huge_integer": 2**3000,
    "improper": ImproperList([1, "a"], Atom("tail")),
    "bitstring": OtpErlangBinary(b"\x80", 1),
    "keys": {(1, "a"): 1, "a": 2, b"\xff": 3, None: 4, 1.5: 5},
    "datetime": datetime(2024, 2, 29, 23, 59, 59, 5, tzinfo=timezone.utc),
    "structs": [date(2024, 2, 29), time(1, 2, 3), Decimal("1.50"), {1, 2}, range(9)],
}
# Errors behind and inside valid terms: the terms that are decoded already must all be freed.
NO_TERMS: dict[str, bytes] = {
    "early_end": b"\x83l\x00\x00\x00\x03a\x01m\x00\x00\x00\x02abh\x02F\x3f\xf8" + bytes(6),
    "unknown_tag": b"\x83t\x00\x00\x00\x02m\x00\x00\x00\x03keyh\x02m\x00\x00\x00\x01a\xc8" + bytes(40),
    "merged_keys": b"\x83t\x00\x00\x00\x02a\x01m\x00\x00\x00\x02abF\x3f\xf0" + bytes(6) + b"m\x00\x00\x00\x02cd",
    "excess": b"\x83l\x00\x00\x00\x01m\x00\x00\x00\x02abjj",
    "bad_float": b"\x83h\x02m\x00\x00\x00\x02abF\x7f\xf8" + bytes(6),
    "pickle": b"\x83h\x02jh\x03w\x0f$erlport.opaquew\x06pythonm\x00\x00\x00\x01.",
}
NO_VALUES: dict[str, Any] = {
    "object": {"a": [1, ("b", 2.5, object())]},
    "surrogate": ["a", {"key": "\ud800"}],
    "same_keys": {"a": 1, b"a": 2},
    "in_a_key": {"a": "first value", ("key", (2.5, object())): ["value of that key"]},
}
SINGLETONS = (None, True, False, 0, 255, "", b"", (), "a", Atom("ok"), Atom("error"), Atom("C"), Atom("usage"))


def round_trip(codec: ModuleType, term: Any, compressed: int = 0) -> None:
    codec.decode(codec.encode(term, compressed=compressed))


def refuse_bytes(codec: ModuleType, data: bytes | bytearray) -> None:
    try:
        codec.decode(data)
    except DecodeError:
        return
    raise AssertionError(f"{data!r} was decoded")


def refuse_value(codec: ModuleType, value: Any) -> None:
    try:
        codec.encode(value)
    except EncodeError:
        return
    raise AssertionError(f"{value!r} was encoded")


def jobs_of(codec: ModuleType) -> Iterator[tuple[str, float, Callable[[], object]]]:
    """Yield, for each kind of round trip, its name, its share of all round trips, and a function that makes one."""
    frequent_part = 0.97 / len(FREQUENT)
    rare_part = 0.03 / (len(RARE) + len(NO_TERMS) + len(NO_VALUES))
    for name, term in FREQUENT.items():
        yield name, frequent_part, partial(round_trip, codec, term)
    for name, term in RARE.items():
        yield name, rare_part, partial(round_trip, codec, term, compressed=6)
    for name, data in NO_TERMS.items():
        yield name, rare_part, partial(refuse_bytes, codec, data)
    for name, value in NO_VALUES.items():
        yield name, rare_part, partial(refuse_value, codec, value)


def rss_bytes() -> int:
    pages = int(proc("self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(job: Callable[[], object], times: int) -> tuple[int, int, int]:
    """Return the growth of Python's blocks, of this process, and of singletons' references while a job runs ``times``.

    The job runs as often before without being measured, and is then measured three times. Python's free lists and
    caches, and leftovers of other tests, grow now and then; a leak grows each time.
    """
    for _ in range(times):
        job()
    counted = [_growth(job, times) for _ in range(3)]
    return min(blocks for blocks, _, _ in counted), min(rss for _, rss, _ in counted), min(last for *_, last in counted)


def _growth(job: Callable[[], object], times: int) -> tuple[int, int, int]:
    gc.collect()
    references = sum(map(sys.getrefcount, SINGLETONS))
    rss, blocks = rss_bytes(), sys.getallocatedblocks()
    for _ in range(times):
        job()
    gc.collect()
    more_blocks, more_rss = sys.getallocatedblocks() - blocks, rss_bytes() - rss
    return more_blocks, more_rss, abs(sum(map(sys.getrefcount, SINGLETONS)) - references)


def test_million_round_trips_leave_memory_as_it_was(codec: ModuleType) -> None:
    """A million round trips with the compiled codec: terms of every kind, and errors in the middle of containers."""
    round_trips = ROUND_TRIPS_OF_REFERENCE if codec is pure else ROUND_TRIPS
    for name, part, job in jobs_of(codec):
        times = int(part * round_trips / 4) + 1
        blocks, rss, references = growth(job, times)
        assert blocks < FEW_BLOCKS, f"{name}: {blocks} blocks after {times} times"
        assert rss < FEW_BYTES, f"{name}: {rss} bytes after {times} times"
        assert references < FEW_BLOCKS, f"{name}: {references} references after {times} times"


@pytest.mark.parametrize("name", [*FREQUENT, *RARE])
def test_term_that_ends_anywhere_leaves_nothing(codec: ModuleType, name: str) -> None:
    encoded = codec.encode((FREQUENT | RARE)[name])
    cuts = [encoded[:length] for length in range(1, len(encoded), 1 + len(encoded) // 100)]

    def refuse_all() -> None:
        for data in cuts:
            refuse_bytes(codec, data)

    blocks, _, references = growth(refuse_all, 20)
    assert blocks < FEW_BLOCKS // 5
    assert references < FEW_BLOCKS // 5


def parts_of(term: Any) -> Iterator[Any]:
    """Yield a value and all values inside it."""
    yield term
    inside = [*term.keys(), *term.values()] if isinstance(term, dict) else term
    for part in inside if isinstance(inside, list | tuple) else ():
        yield from parts_of(part)


@pytest.mark.parametrize("name", [*FREQUENT, *NO_VALUES])
def test_encoding_keeps_no_reference_to_a_value_or_its_parts(codec: ModuleType, name: str) -> None:
    term = (FREQUENT | NO_VALUES)[name]
    # The whole interpreter shares small integers, and counting itself uses them.
    parts = [part for part in parts_of(term) if type(part) is not int]

    def encode() -> None:
        if name in NO_VALUES:
            refuse_value(codec, term)
        else:
            codec.encode(term)

    encode()
    before = [sys.getrefcount(part) for part in parts]
    for _ in range(10):
        encode()
    more = [sys.getrefcount(part) - count for part, count in zip(parts, before, strict=True)]
    # Other code uses None or 1, too: a leak would add a reference at each repetition.
    assert all(abs(count) < 10 for count in more), more


@pytest.mark.parametrize("name", [*FREQUENT, *NO_TERMS])
def test_decoding_keeps_no_reference_to_its_input(codec: ModuleType, name: str) -> None:
    data = NO_TERMS[name] if name in NO_TERMS else codec.encode(FREQUENT[name])
    buffer = bytearray(data)
    before = sys.getrefcount(data)
    for _ in range(10):
        if name in NO_TERMS:
            refuse_bytes(codec, data)
            refuse_bytes(codec, buffer)
        else:
            codec.decode(data)
            codec.decode(buffer)
    assert sys.getrefcount(data) == before
    buffer += b"more"  # Python refuses this while a view of the buffer exists


def test_a_frame_takes_no_memory_for_its_large_parts_and_leaks_nothing(compiled: ModuleType) -> None:
    texts = ["x" * 10_000_000, b"\xff" * 10_000_000]
    broken = [*texts, object()]
    assert peak_bytes(lambda: compiled.encode_frame(texts, packet=4)) < 100_000
    before = [sys.getrefcount(text) for text in texts]
    for _ in range(100):
        compiled.encode_frame(texts, packet=4)
        with pytest.raises(EncodeError):
            compiled.encode_frame(broken, packet=4)
    assert [sys.getrefcount(text) for text in texts] == before
