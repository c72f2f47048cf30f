"""Measure a pool of several workers: throughput against one worker, a killed worker, and overload."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import header, row

_HERE = Path(__file__).parent
_MIX_STUB = _HERE.parent / "mix_stub"

# Goals.
_LEAST_GAIN = 1.8
_MOST_WAIT_MS = 50.0
_LEAST_GOODPUT = 0.9
_MOST_REFUSAL_MS = 5.0


def lines() -> Iterator[str]:
    """Run the load generator in Elixir, which takes a part of the same cores, and yield Markdown."""
    yield "## Several workers\n"
    measured = _measured()
    yield header("what", "found", "worst", "goal")
    for callers in (1, 16):
        one, two = measured[f"one worker, {callers} callers"], measured[f"two workers, {callers} callers"]
        gains = sorted(more / less for more, less in zip(two, one, strict=True))
        goal = f"≥ {_LEAST_GAIN}" if callers > 1 else ""
        what = f"`execute_module` a second, two workers against one, {callers} callers ({statistics.median(one):.0f}/s)"
        yield row([what, f"{statistics.median(gains):.2f}", f"{gains[0]:.2f}", goal])
        yield _possible(measured, callers)
    waits = measured["killed, wait"]
    failed = max(measured["killed, failed"])
    what = f"a worker killed under 64 callers: until their next answer ({failed:.0f} calls failed)"
    yield row([what, f"{statistics.median(waits):.0f} ms", f"{max(waits):.0f} ms", f"≤ {_MOST_WAIT_MS:.0f} ms"])
    for what, name in (
        ("until they have their errors", "noticed"),
        ("a call before it, as 64 wait for each other", "usual"),
    ):
        times = measured[f"killed, {name}"]
        yield row([f"of that: {what}", f"{statistics.median(times):.0f} ms", f"{max(times):.0f} ms", ""])
    yield from _stopped(measured)
    yield from _overload(measured)


def _stopped(measured: dict[str, list[float]]) -> Iterator[str]:
    shares, times = sorted(measured["stopped, share"]), measured["stopped, killed"]
    what = "one of two workers stopped (SIGSTOP) under 16 callers: answers meanwhile against before"
    yield row([what, f"{statistics.median(shares):.2f}", f"{shares[0]:.2f}", ""])
    what = "of that: until it is killed"
    yield row([what, f"{statistics.median(times):.0f} ms", f"{max(times):.0f} ms", ""])


def _overload(measured: dict[str, list[float]]) -> Iterator[str]:
    goodput = measured["overloaded"][0] / measured["peak"][0]
    what = f"three times overloaded for 30 s, model of 100 ms: answers against the peak ({measured['peak'][0]:.0f}/s)"
    yield row([what, f"{goodput:.2f}", "", f"≥ {_LEAST_GOODPUT}"])
    half, most, slowest = measured["refusal"]
    what = f"of that: a refusal (99 of 100: {most:.2f} ms)"
    yield row([what, f"{half:.2f} ms", f"{slowest:.1f} ms", f"≤ {_MOST_REFUSAL_MS:.0f} ms"])
    grown = f"{measured['grown'][0] / 1_000_000:+.1f} MB"
    yield row(["of that: memory of the BEAM and the Pythons afterwards", grown, "", ""])


def _possible(measured: dict[str, list[float]], callers: int) -> str:
    """Return the row with the gain that two cores allow, which the Pythons share with the BEAM and its callers."""
    beam, python = (
        statistics.median(measured[f"one worker, {callers} callers, {process}"]) for process in ("beam", "python")
    )
    most = min(2 * python / (beam + python), 2.0)
    what = f"of that: what two cores allow, {python:.0f} µs of CPU time in Python and {beam:.0f} µs in the BEAM"
    return row([what, f"{most:.2f}", "", ""])


def _measured() -> dict[str, list[float]]:
    command = ["mix", "run", str(_HERE / "workers.exs")]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    run = subprocess.run(command, cwd=_MIX_STUB, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, list[float]] = defaultdict(list)
    for line in run.stdout.splitlines():
        name, tab, value = line.partition("\t")
        if tab:  # `mix` prints other lines when it compiles
            measured[name].append(float(value))
    return measured
