"""Time several contestants in turn, so that a machine whose speed drifts is fair to all of them."""

from __future__ import annotations

import os
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import Any, TypeAlias

#: Repeats an operation the given number of times, and returns the seconds that this took.
Batch: TypeAlias = Callable[[int], float]

_MIN_BATCH_S = 0.001
_MIN_ROUNDS = 5


def in_python(operation: Callable[[Any], object], argument: Any) -> Batch:
    """Return a timed batch of ``operation(argument)``; each result is freed before the next call."""

    def run(count: int) -> float:
        started_at = time.perf_counter()
        for _ in repeat(None, count):
            operation(argument)
        return time.perf_counter() - started_at

    return run


def in_child(operation: Callable[[Any], object], argument: Any) -> Batch:
    """Return a timed batch of ``operation(argument)``, each call in a newly forked process."""

    def run(count: int) -> float:
        return sum(_seconds_in_child(operation, argument) for _ in range(count))

    return run


def medians(contestants: Mapping[str, Batch], *, seconds: float) -> dict[str, float]:
    """Return each contestant's median time of one operation, in seconds; see :func:`samples`."""
    return {name: statistics.median(times) for name, times in samples(contestants, seconds=seconds).items()}


def samples(contestants: Mapping[str, Batch], *, seconds: float) -> dict[str, list[float]]:
    """Run the contestants in turns for about ``seconds``; return the times of one operation for each, in seconds.

    A turn repeats its operation until a clock can measure it, for 1 ms at least. Calibration rounds, which find the
    number of repetitions, do not count. At least 5 rounds follow.
    """
    counts = {name: _calibrated(batch) for name, batch in contestants.items()}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    ends_at = time.perf_counter() + seconds
    rounds = 0
    turns = list(contestants.items())
    order = random.Random(0)  # noqa: S311 - nothing secret
    while rounds < _MIN_ROUNDS or time.perf_counter() < ends_at:
        # A contestant that follows a large one finds cold caches and fragmented memory: shuffle, so that each does.
        order.shuffle(turns)
        for name, batch in turns:
            taken[name].append(batch(counts[name]) / counts[name])
        rounds += 1
    return taken


def row(cells: Iterable[object]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*names: str) -> str:
    """Return the first two rows of a Markdown table."""
    return f"{row(names)}\n{row('---' for _ in names)}"


def judged(ratio: float, goal: float) -> str:
    """Return a ratio and its goal, in bold if the goal is missed: ``0.94 ≤ 1.00``, ``**1.06 > 1.00**``."""
    if ratio <= goal:
        return f"{ratio:.2f} ≤ {goal:.2f}"
    return f"**{ratio:.2f} > {goal:.2f}**"


def judged_rate(ratio: float, goal: float) -> str:
    """Return the same of a ratio that should be high: ``0.64 ≥ 0.60``, ``**0.56 < 0.60**``."""
    if ratio >= goal:
        return f"{ratio:.2f} ≥ {goal:.2f}"
    return f"**{ratio:.2f} < {goal:.2f}**"


def readable(seconds: float) -> str:
    """Return a time with three digits and its unit."""
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
