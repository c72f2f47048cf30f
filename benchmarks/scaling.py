"""Measure how the codec's time and memory grow with a term, and the part that the garbage collector takes."""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from benchmarks.terms import realistic_result
from benchmarks.timing import Batch, header, in_child, in_python, judged, medians, readable, row, samples
from erlport_bridge.term import IMPLEMENTATION, Term, decode, encode

_MIB = 1024 * 1024
_SIZES_MIB = (1, 2, 4, 8, 16, 32, 64)
_MAX_PER_DOUBLING = 2.2
_M_MMAP_THRESHOLD = -3  # malloc.h
_SECONDS_PER_ROW = 3.0

# Goal: a binary is copied once, into the result, and not copied again.
_MAX_COPIES = 1.1
_LIVE_OBJECTS = 1_000_000


def lines() -> Iterator[str]:
    """Measure the codec in use; yield lines of Markdown."""
    yield f"## The codec ({IMPLEMENTATION}): time per doubling of a term, at most {_MAX_PER_DOUBLING}\n"
    yield from _doublings()
    yield f"\n## Memory at its peak while a binary of {_SIZES_MIB[-1]} MiB passes, in sizes of that binary\n"
    yield from _copies()
    yield f"\n## The garbage collector, with {_LIVE_OBJECTS:,} live objects besides\n"
    yield from _collections()


def _doublings() -> Iterator[str]:
    """Yield a row for each term and direction, and a row for a plain copy as the control."""
    _give_large_blocks_back()
    steps = [f"{small} to {large} MiB" for small, large in pairwise(_SIZES_MIB)]
    yield header("term", "", *steps, f"time for {_SIZES_MIB[-1]} MiB")
    copies = [in_python(bytearray, b"a" * (size * _MIB)) for size in _SIZES_MIB]
    yield _doubling_row("bytes", "plain copy", copies)
    for name, terms in _terms_by_size():
        encoded = [encode(term) for term in terms]
        yield _doubling_row(name, "encode", [in_python(encode, term) for term in terms])
        # A small term reuses memory that the last term has freed. A large term needs new pages from the system, which
        # cost more than the writing. In a new process, terms of all sizes need new pages.
        yield _doubling_row(name, "decode", [in_child(decode, data) for data in encoded])


def _give_large_blocks_back() -> None:
    """Make malloc return every freed block above 128 KiB to the system, so that all sizes are treated alike.

    By default glibc keeps freed blocks of up to 32 MiB for reuse, but no larger blocks. A larger block gets new pages,
    which the kernel must clear first, and that takes longer than copying into them. The step from 16 to 32 MiB would
    then take 15 to 30 times as long, for a plain copy as well.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def _doubling_row(name: str, operation: str, by_size: list[Batch]) -> str:
    batches = {str(place): batch for place, batch in enumerate(by_size)}
    # Take the fastest run of each: every disturbance makes a run longer.
    times = [min(taken) for taken in samples(batches, seconds=_SECONDS_PER_ROW).values()]
    ratios = [judged(larger / smaller, _MAX_PER_DOUBLING) for smaller, larger in pairwise(times)]
    return row([name, operation, *ratios, readable(times[-1])])


def _terms_by_size() -> Iterator[tuple[str, list[Term]]]:
    """Yield, for each kind of term, its name and terms of each encoded size, which share their parts to save memory.

    The lists come last: their small blocks leave gaps in memory, in which a small binary would find cleared pages.
    """
    yield "text", ["a" * (size * _MIB) for size in _SIZES_MIB]
    yield "bytes, not UTF-8", [b"\xff" * (size * _MIB) for size in _SIZES_MIB]
    integer_bytes = 5
    integers = list(range(256, 256 + _SIZES_MIB[-1] * _MIB // integer_bytes))
    yield "list of integers", [integers[: size * _MIB // integer_bytes] for size in _SIZES_MIB]
    result_bytes = len(encode(realistic_result()))
    results = [realistic_result() for _ in range(_SIZES_MIB[-1] * _MIB // result_bytes)]
    yield "list of results", [results[: size * _MIB // result_bytes] for size in _SIZES_MIB]


def _copies() -> Iterator[str]:
    size = _SIZES_MIB[-1] * _MIB
    yield header("binary", "decode", "encode")
    for name, term in (
        ("text, ASCII", "a" * size),
        ("text, not ASCII", "é" * (size // 2)),
        ("bytes, not UTF-8", b"\xff" * size),
        ("bytes, not UTF-8 at their very end", b"a" * (size - 1) + b"\xff"),
    ):
        data = encode(term)
        peaks = [_peak_bytes(decode, data) / size, _peak_bytes(encode, term) / size]
        yield row([name, *(judged(peak, _MAX_COPIES) for peak in peaks)])


def _peak_bytes(function: Callable[[Any], object], argument: Any) -> int:
    """Return the peak of Python's allocations during a call, the result included, beyond the allocations before."""
    tracemalloc.start()
    try:
        function(argument)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _collections() -> Iterator[str]:
    """Measure with the garbage collector on, off, and with all earlier objects frozen (``gc.freeze``).

    The live objects stand for the objects of a port after ``import dspy``: a full collection visits all of them.
    """
    live: list[list[object]] = [[] for _ in range(_LIVE_OBJECTS)]
    gc.collect()  # moves them to the oldest generation, where DSPy's objects are
    yield header("term", "", "on", "on / off", "frozen / off", "collections per operation: young, middle, full")
    for count in (1, 1_000, 7_000):
        term = [realistic_result() for _ in range(count)]
        yield _collections_row(f"list of {count:,} results", "decode", decode, encode(term))
        yield _collections_row(f"list of {count:,} results", "encode", encode, term)
    del live


def _collections_row(name: str, operation: str, function: Callable[[Any], object], argument: Any) -> str:
    batch = in_python(function, argument)
    batches = {"on": batch, "off": _in(_collector_off, batch), "frozen": _in(_frozen, batch)}
    times = medians(batches, seconds=_SECONDS_PER_ROW)
    collections = _collections_per_operation(batch, max(1, int(1 / times["on"])))
    ratios = [f"{times[mode] / times['off']:.2f}" for mode in ("on", "frozen")]
    return row([name, operation, readable(times["on"]), *ratios, ", ".join(f"{number:.2g}" for number in collections)])


def _in(mode: Callable[[], Any], batch: Batch) -> Batch:
    def run(count: int) -> float:
        with mode():
            return batch(count)

    return run


@contextmanager
def _collector_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _frozen() -> Iterator[None]:
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _collections_per_operation(batch: Batch, count: int) -> list[float]:
    before = [generation["collections"] for generation in gc.get_stats()]
    batch(count)
    after = [generation["collections"] for generation in gc.get_stats()]
    return [(now - then) / count for then, now in zip(before, after, strict=True)]
