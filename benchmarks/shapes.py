"""Measure each shape that the compared terms consist of: if a term misses its goal, one of its shapes does too."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.codec import table
from erlport_bridge.term import IMPLEMENTATION, Atom, Term

_SECONDS_PER_ROW = 0.5


def lines() -> Iterator[str]:
    """Measure decoding and encoding of each shape; yield lines of Markdown."""
    yield f"## The codec ({IMPLEMENTATION}), by shape\n"
    yield from table(_shapes(), _SECONDS_PER_ROW)


def _shapes() -> dict[str, Term]:
    words = "some words of an answer. " * 8
    return {
        "1,000 binaries of 8 bytes": ["12345678"] * 1_000,
        "1,000 binaries of 200 bytes": [words] * 1_000,
        "the same, not ASCII": [words[:-1] + "é"] * 1_000,
        "map of 30 short keys": {f"field_{number}": 1 for number in range(30)},
        "map of 3 atoms to atoms": {Atom(name): Atom("ok") for name in ("model", "prompt", "temperature")},
        "40 floats": [number / 7 for number in range(40)],
        "1,000 integers under 256": [number % 256 for number in range(999)] + [1_000],
        "1,000 integers beyond 32 bits": [2**40 + number for number in range(1_000)],
        "1,000 times nil, true, false": [None, True, False] * 333,
        "1,000 maps of one entry": [{"score": 1}] * 1_000,
        "1,000 pairs": [("score", 1)] * 1_000,
        "100 nested maps": _nested(100),
    }


def _nested(levels: int) -> Term:
    term: Term = "end"
    for _ in range(levels):
        term = {"next": term}
    return term
