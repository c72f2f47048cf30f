"""Compare calls from Elixir with an echo program in C on the same kind of port."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import header, judged, readable, row

_HERE = Path(__file__).parent
_MIX_STUB = _HERE.parent / "mix_stub"

# Goals: the highest ratio to the echo program's time, or the lowest ratio to its calls per second.
_MOST_TIME = {"a small call, one caller": 1.25}
_MOST_TIME_OF_BINARIES = 2.5
_LEAST_RATE = {"64 callers, calls a second": 0.6, "9 kB, 64 callers, calls a second": 0.25}


def lines() -> Iterator[str]:
    """Measure a call that does nothing, and ``DSPex.Python.ping``, which returns its argument; yield Markdown."""
    yield "## Calls from Elixir\n"
    yield header("call", "ours", "C echo", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        echo = Path(folder, "echo")
        subprocess.run(["cc", "-O2", "-o", str(echo), str(_HERE / "echo.c")], check=True)  # noqa: S607
        command = ["mix", "run", str(_HERE / "load.exs"), str(echo)]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        measured = subprocess.run(
            command, cwd=_MIX_STUB, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    for line in measured.stdout.splitlines():
        cells = line.split("\t")
        if len(cells) == 4:  # `mix` prints other lines when it compiles
            yield _row(cells[0], float(cells[1]), float(cells[2]), more_is_better=cells[3] == "more")


def _row(what: str, ours: float, theirs: float, *, more_is_better: bool) -> str:
    ratio = ours / theirs
    if more_is_better:
        least = next(goal for end, goal in reversed(_LEAST_RATE.items()) if what.endswith(end))
        mark = f"{ratio:.2f} ≥ {least:.2f}" if ratio >= least else f"**{ratio:.2f} < {least:.2f}**"
        return row([what, f"{ours:,.0f}", f"{theirs:,.0f}", mark])
    return row([what, readable(ours), readable(theirs), judged(ratio, _MOST_TIME.get(what, _MOST_TIME_OF_BINARIES))])
