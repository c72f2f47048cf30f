"""Times several ways of doing one thing in turn, so that a machine whose speed drifts is unfair to none of them."""

from __future__ import annotations

import os
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import Any, TypeAlias

#: Does an operation as many times as it is told, and gives the seconds that took.
Batch: TypeAlias = Callable[[int], float]

_MIN_BATCH_S = 0.001
_MIN_ROUNDS = 5


def in_python(operation: Callable[[Any], object], argument: Any) -> Batch:
    """Give the timed repetition of ``operation(argument)``; each result is freed before the next is made."""

    def run(count: int) -> float:
        started_at = time.perf_counter()
        for _ in repeat(None, count):
            operation(argument)
        return time.perf_counter() - started_at

    return run


def in_child(operation: Callable[[Any], object], argument: Any) -> Batch:
    """Give the same, each time in a process that is forked for it and has done nothing of the kind before."""

    def run(count: int) -> float:
        return sum(_seconds_in_child(operation, argument) for _ in range(count))

    return run


def medians(contestants: Mapping[str, Batch], *, seconds: float) -> dict[str, float]:
    """Give each contestant's median time of one operation, in seconds; see :func:`samples`."""
    return {name: statistics.median(times) for name, times in samples(contestants, seconds=seconds).items()}


def samples(contestants: Mapping[str, Batch], *, seconds: float) -> dict[str, list[float]]:
    """Let the contestants take turns for about ``seconds``; give each one's times of one operation, in seconds.

    A turn repeats its operation until a clock can measure it, 1 ms at least. There are at least 5 rounds,
    after the ones that find this number and do not count.
    """
    counts = {name: _calibrated(batch) for name, batch in contestants.items()}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    ends_at = time.perf_counter() + seconds
    rounds = 0
    turns = list(contestants.items())
    order = random.Random(0)  # noqa: S311 - nothing secret
    while rounds < _MIN_ROUNDS or time.perf_counter() < ends_at:
        # Who comes after a large one finds caches and memory in disorder: not always the same.
        order.shuffle(turns)
        for name, batch in turns:
            taken[name].append(batch(counts[name]) / counts[name])
        rounds += 1
    return taken


def row(cells: Iterable[object]) -> str:
    """Give the row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*names: str) -> str:
    """Give the first two rows of a Markdown table."""
    return f"{row(names)}\n{row('---' for _ in names)}"


def judged(ratio: float, goal: float) -> str:
    """Give a ratio beside its goal, marked if it is missed: ``0.94 ≤ 1.00``, ``**1.06 > 1.00**``."""
    if ratio <= goal:
        return f"{ratio:.2f} ≤ {goal:.2f}"
    return f"**{ratio:.2f} > {goal:.2f}**"


def readable(seconds: float) -> str:
    """Give a time with three digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _seconds_in_child(operation: Callable[[Any], object], argument: Any) -> float:
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        started_at = time.perf_counter()
        result = operation(argument)
        os.write(write_end, struct.pack("d", time.perf_counter() - started_at))
        os._exit(result is None)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        seconds: float = struct.unpack("d", pipe.read())[0]
    os.waitpid(child, 0)
    return seconds


def _calibrated(batch: Batch) -> int:
    count = 1
    while batch(count) < _MIN_BATCH_S:
        count *= 2
    return count
