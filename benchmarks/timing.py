"""Times two ways of doing one thing in turn, so that a machine whose speed drifts is unfair to neither."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """What ours took against a peer.

    Attributes:
        what: What was done.
        peer: What it was compared with.
        ours_s, peer_s: Medians, in seconds.
    """

    what: str
    peer: str
    ours_s: float
    peer_s: float

    def line(self) -> str:
        """Give the comparison as a row of a Markdown table."""
        ratio = self.ours_s / self.peer_s
        return f"| {self.what} | {self.peer} | {_readable(self.ours_s)} | {_readable(self.peer_s)} | {ratio:.2f} |"


HEADER = "| what | against | ours | theirs | ratio |\n| --- | --- | --- | --- | --- |"


def compare(what: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object], *, runs: int) -> Comparison:
    """Run both ``runs`` times in turn, after one run of each that does not count."""
    ours()
    theirs()
    samples = [(_seconds(ours), _seconds(theirs)) for _ in range(runs)]
    return Comparison(what, peer, *(statistics.median(column) for column in zip(*samples, strict=True)))


def _seconds(function: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    function()
    return time.perf_counter() - started_at


def _readable(seconds: float) -> str:
    if seconds < 0.01:
        return f"{seconds * 1e6:,.0f} µs"
    return f"{seconds * 1e3:,.0f} ms"
