"""Measure how late a deadline of other calls is while one call brings much: a large input, reply, answer or batch."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.timing import header, judged, readable, row
from tests.lateness import CALLS, WatchedPort

# The goal: the most time, in ms, for which the event loop does not look at deadlines. CPU time is judged, as other
# programs on the machine make the time longer.
_MOST_LATE_MS = 50.0
# The shortest of so many rounds: another program on the machine makes some of them longer.
_ROUNDS = 3


def lines() -> Iterator[str]:
    """Measure each call; yield lines of Markdown."""
    yield "## Deadlines while another call brings much\n"
    yield header("what it brings", "its time", "a deadline of others is late by", "in CPU time of the port")
    with WatchedPort() as port:
        for what, call in CALLS.items():
            found = [port.during(*call(port)) for _ in range(_ROUNDS)]
            late_ms, cpu_ms = (
                min(each) for each in zip(*((one.worst_ms, one.worst_cpu_ms) for one in found), strict=True)
            )
            taken = readable(min(one.taken_s for one in found))
            yield row([what, taken, f"{late_ms:.0f} ms", f"{judged(cpu_ms, _MOST_LATE_MS)} ms"])
