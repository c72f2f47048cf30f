"""Hold the counts of one operation, module, program or model: durations, tokens and cost, errors.

Nothing here has a lock; :class:`.counters.Counters` has one lock for all tallies.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

# Places (buckets) of the histogram for each doubling: neighbours are 9 % apart, so a middle is at most 4.5 % off.
_PLACES: Final = 8
# Added to each duration, which may be 0. Its logarithm is above -_LOWEST, so that no place is negative: `int` rounds
# towards 0.
_LEAST_S: Final = 1e-7
_LOWEST: Final = 24
# Largest number of durations that are queued for their places.
_MOST_NEW: Final = 256
_PERCENTILES: Final = (50, 95, 99)
# More tokens than this, claimed by a provider or a function, would make a sum that no JSON reader accepts.
_MAX_TOKENS: Final = 2**53


class Durations:
    """A histogram with a logarithmic scale: at most some hundred numbers, however many durations there are."""

    __slots__ = ("_counts", "_max_s", "_new", "_total_s")

    def __init__(self) -> None:
        # Counts by place. Few places are in use, since the durations counted here are similar.
        self._counts: dict[int, int] = {}
        self._total_s = 0.0
        self._max_s = 0.0
        # Durations not sorted into places yet: sorting many at once takes a quarter of the time.
        self._new: list[float] = []

    def add(self, duration_s: float) -> None:
        """Count a duration, which is not negative."""
        self._new.append(duration_s)
        if len(self._new) >= _MOST_NEW:
            self._find_places()

    def add_all(self, durations_s: Iterable[float]) -> None:
        """Count many durations."""
        self._new += durations_s
        self._find_places()

    def merge(self, other: Durations) -> None:
        """Add all counts of another instance to this one."""
        other._find_places()
        for place, count in other._counts.items():
            self._counts[place] = self._counts.get(place, 0) + count
        self._total_s += other._total_s
        self._max_s = max(self._max_s, other._max_s)

    def report(self, *, buckets: bool = False) -> dict[str, Any] | None:
        """Return ``mean``, ``p50``, ``p95``, ``p99`` and ``max`` in ms; ``None`` if nothing was counted.

        With ``buckets`` also the middle of each place in ms, with its count, from which the percentiles of several
        processes together can be computed.
        """
        self._find_places()
        if not self._counts:
            return None
        count = sum(self._counts.values())
        report: dict[str, Any] = {"mean": self._total_s / count * 1000}
        places = iter(sorted(self._counts.items()))
        place, seen = -1, 0
        for percentile in _PERCENTILES:
            # The rank of the percentile: so many durations are at most as long as it.
            wanted = math.ceil(count * percentile / 100)
            while seen < wanted:
                place, here = next(places)
                seen += here
            report[f"p{percentile}"] = min(max(_duration_at(place + 0.5), 0.0), self._max_s) * 1000
        report["max"] = self._max_s * 1000
        if buckets:
            places = iter(sorted(self._counts.items()))
            report["buckets"] = [[max(_duration_at(place + 0.5), 0.0) * 1000, count] for place, count in places]
        return report

    def _find_places(self) -> None:
        new = sorted(self._new)
        if not new:
            return
        self._new.clear()
        self._total_s += sum(new)
        self._max_s = max(self._max_s, new[-1])
        begin = 0
        while begin < len(new):
            place = int((math.log2(new[begin] + _LEAST_S) + _LOWEST) * _PLACES)
            # At least the first duration belongs here, even if rounding puts it at the end of its place.
            end = bisect.bisect_left(new, _duration_at(place + 1), begin + 1)
            self._counts[place] = self._counts.get(place, 0) + end - begin
            begin = end


def _duration_at(place: float) -> float:
    return float(2.0 ** (place / _PLACES - _LOWEST)) - _LEAST_S


@dataclass(slots=True)
class Spent:
    """The tokens and cost of model calls.

    Attributes:
        tokens: Total number of tokens, as the providers report them.
        cost: Total cost of the answers whose price is known, in US dollars.
        unpriced: Number of answers whose price is unknown.
        cache_hits: Number of answers from a cache, which cost nothing.
        uncounted: Number of answers whose tokens are unknown.
    """

    tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    cache_hits: int = 0
    uncounted: int = 0

    def add_answer(self, tokens: object, cost: float | None, *, is_cached: bool) -> None:
        """Add the cost of one answer; ``tokens`` is the provider's number, ``cost`` is ``None`` if unknown."""
        if is_cached:
            self.cache_hits += 1
            return
        if isinstance(tokens, int) and 0 < tokens <= _MAX_TOKENS:
            self.tokens += tokens
        else:
            self.uncounted += 1
        if cost is not None and math.isfinite(cost):
            self.cost += cost
        else:
            self.unpriced += 1

    def add(self, other: Spent) -> None:
        """Add the tokens and cost of another instance."""
        self.tokens += other.tokens
        self.cost += other.cost
        self.unpriced += other.unpriced
        self.cache_hits += other.cache_hits
        self.uncounted += other.uncounted

    def report(self) -> dict[str, Any]:
        """Return ``total_tokens``, ``cost``, ``unpriced`` and ``cache_hits``."""
        return {
            "total_tokens": self.tokens,
            "cost": self.cost,
            "unpriced": self.unpriced,
            "cache_hits": self.cache_hits,
        }


class Tally:
    """The counts of one operation, module, program or model."""

    __slots__ = ("calls", "durations", "errors", "in_flight", "queued", "spent")

    def __init__(self) -> None:
        self.in_flight = 0
        self._clear()

    def failed(self, kind: str, count: int = 1) -> None:
        """Count errors of one kind."""
        self.errors[kind] = self.errors.get(kind, 0) + count

    def merge(self, other: Tally) -> None:
        """Add all counts of another instance to this one."""
        self.calls += other.calls
        self.in_flight += other.in_flight
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        self.durations.merge(other.durations)
        self.queued.merge(other.queued)
        self.spent.add(other.spent)

    def copy(self) -> Tally:
        """Return a copy of the counts."""
        copied = Tally()
        copied.merge(self)
        return copied

    def taken(self) -> Tally:
        """Return a copy of the counts, and reset them, except for the calls in flight."""
        taken = self.copy()
        self._clear()
        return taken

    def report(self, *, buckets: bool = False) -> dict[str, Any]:
        """Return the counts as a term; see ``docs/operations.md``, and :meth:`Durations.report` for ``buckets``."""
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "errors": dict(self.errors),
            "duration_ms": self.durations.report(buckets=buckets),
            "queue_ms": self.queued.report(buckets=buckets),
            **self.spent.report(),
        }

    def _clear(self) -> None:
        # Calls in flight stay counted: their ends will be counted in this tally.
        self.calls = self.in_flight
        # Counts by kind, of which there are few.
        self.errors: dict[str, int] = {}
        self.durations = Durations()
        self.queued = Durations()
        self.spent = Spent()
