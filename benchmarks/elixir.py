"""Compare calls from Elixir with an echo program in C on the same kind of port."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import header, judged, judged_rate, readable, row

_HERE = Path(__file__).parent
_MIX_STUB = _HERE.parent / "mix_stub"

# Goals: the highest ratio to the echo program's time, or the lowest ratio to its calls per second.
_MOST_TIME = {"a small call, one caller": 1.25}
_MOST_TIME_OF_BINARIES = 2.5
_LEAST_RATE = {"64 callers, calls a second": 0.6, "9 kB, 64 callers, calls a second": 0.25}


@dataclass(frozen=True)
class Comparison:
    """Our time in seconds, or calls a second, beside those of the echo program."""

    what: str
    ours: float
    theirs: float
    more_is_better: bool

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    def shown(self) -> tuple[str, str]:
        """Return both values as text."""
        if self.more_is_better:
            return f"{self.ours:,.0f}", f"{self.theirs:,.0f}"
        return readable(self.ours), readable(self.theirs)


def lines() -> Iterator[str]:
    """Measure a call that does nothing, and ``DSPex.Python.ping``, which returns its argument; yield Markdown."""
    yield "## Calls from Elixir\n"
    yield header("call", "ours", "C echo", "ratio")
    for comparison in compared("all"):
        yield _row(comparison)


def compared(*arguments: str, most_s: float | None = None) -> Iterator[Comparison]:
    """Run ``load.exs`` with these arguments after the path of the echo program; yield what it compares.

    Raises:
        subprocess.TimeoutExpired: It took longer than ``most_s`` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        echo = Path(folder, "echo")
        subprocess.run(["cc", "-O2", "-o", str(echo), str(_HERE / "echo.c")], check=True)  # noqa: S607
        command = ["mix", "run", str(_HERE / "load.exs"), str(echo), *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        measured = subprocess.run(
            command, cwd=_MIX_STUB, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=most_s
        )
    for line in measured.stdout.splitlines():
        cells = line.split("\t")
        if len(cells) == 4:  # `mix` prints other lines when it compiles
            yield Comparison(cells[0], float(cells[1]), float(cells[2]), cells[3] == "more")


def _row(comparison: Comparison) -> str:
    what, ratio = comparison.what, comparison.ratio
    if comparison.more_is_better:
        least = next(goal for end, goal in reversed(_LEAST_RATE.items()) if what.endswith(end))
        return row([what, *comparison.shown(), judged_rate(ratio, least)])
    return row([what, *comparison.shown(), judged(ratio, _MOST_TIME.get(what, _MOST_TIME_OF_BINARIES))])
