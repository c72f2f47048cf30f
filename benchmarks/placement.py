"""Compare small calls from Elixir with an echo program, with both processes on one core, and on two."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

from benchmarks import machine
from benchmarks.elixir import Comparison, compared
from benchmarks.timing import header, row

_RUNS = 3
# Longest time of one run, in seconds. It takes 10 to 15 on a machine with other load.
_MOST_S = 180.0
# Goals, in the worse placement and the worst run.
_MOST_TIME = 1.5
_LEAST_RATE = 0.6


def lines() -> Iterator[str]:
    """Measure each placement in turns; yield Markdown."""
    yield "## Where the processes run\n"
    found = machine.cores()
    if len(found) < 2 or shutil.which("taskset") is None:
        yield "Needs two cores, and `taskset`."
        return
    first, second = map(str, found[:2])
    placements = {
        "as the system places them": [],
        "the BEAM and the other process on one core": [first, first],
        "each on a core of its own": [first, second],
    }
    runs: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for number in range(1, _RUNS + 1):
        for name, pinned in placements.items():
            started_at = time.monotonic()
            for comparison in compared("small", *pinned, most_s=_MOST_S):
                runs[comparison.what, name].append(comparison)
            # The table comes only at the end, after some minutes.
            took_s = time.monotonic() - started_at
            print(f"run {number} of {_RUNS}, {name}: {took_s:.0f} s", file=sys.stderr, flush=True)
    yield header("call", "placement", "ours", "C echo", f"ratio, middle of {_RUNS} runs (from, to)", "worst")
    for (what, placement), comparisons in sorted(runs.items()):
        yield _row(what, placement, comparisons)


def _row(what: str, placement: str, comparisons: list[Comparison]) -> str:
    ratios = [comparison.ratio for comparison in comparisons]
    more_is_better = comparisons[0].more_is_better
    worst = min(ratios) if more_is_better else max(ratios)
    is_met = worst >= _LEAST_RATE if more_is_better else worst <= _MOST_TIME
    goal = f"{worst:.2f} (goal {'≥' if more_is_better else '≤'} {_LEAST_RATE if more_is_better else _MOST_TIME})"
    middle = sorted(comparisons, key=lambda comparison: comparison.ratio)[len(comparisons) // 2]
    marked = goal if is_met else f"**{goal}**"
    shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return row([what, placement, *middle.shown(), shown, marked])
