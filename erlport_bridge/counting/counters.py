"""Count the calls of this port, for each operation, DSPy module, stored program and model.

Callers choose the names, so a group keeps at most :data:`MAX_NAMES` names. The counts of an evicted name are added to
the counts of :data:`OTHER`. The :data:`MAX_NAMES` ``// 2`` most recently used names are never evicted; of the other
names, the one with the fewest calls is evicted first.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from erlport_bridge.counting.tallies import Spent, Tally
from erlport_bridge.redaction import redact

GROUPS: Final = ("operations", "modules", "programs", "models")
#: Largest number of names in a group, :data:`OTHER` not counted.
MAX_NAMES: Final = 256
#: The name that holds the counts of evicted names.
OTHER: Final = "$other"

_MAX_NAME_CHARACTERS: Final = 200
# Largest number of calls that are queued to be counted.
_MOST_ADDED: Final = 256
_MEMORY: Final = re.compile(r"^(VmHWM|VmRSS):\s*(\d+) kB", re.MULTILINE)


class Running:
    """A call between :meth:`Counters.begin` and :meth:`Counters.end`."""

    __slots__ = ("started_at", "tally")

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.started_at = time.monotonic()


class Counters:
    """The counters of one port; any thread may use them."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, as in a process that has just been started; no call may be running."""
        # Protects the tallies; held for a few additions only, and while a report copies them.
        self._lock = threading.Lock()
        # The names of a group in the order in which `begin` has used them.
        self._groups: dict[str, dict[str, Tally]] = {group: {} for group in GROUPS}
        self._others = {group: Tally() for group in GROUPS}
        # Calls given to `add` and not counted yet: counting many at once takes a quarter of the time.
        self._added: deque[tuple[str, str, str | None, float]] = deque()
        self._started_at = self._counted_since = time.monotonic()

    def begin(self, group: str, name: str) -> Running:
        """Count the start of a call; return the token to pass to :meth:`end`."""
        with self._lock:
            tallies = self._groups[group]
            tally = tallies.pop(name, None)
            if tally is None:
                tally = self._new_tally(group, name)
            else:
                tallies[name] = tally
            tally.calls += 1
            tally.in_flight += 1
        return Running(tally)

    def add(self, group: str, name: str, started_at: float, *, kind: str | None = None) -> None:
        """Count a call that has ended, without :meth:`begin`: a call so quick that it need not be seen in flight."""
        # Without the lock: `append` is atomic.
        self._added.append((group, name, kind, time.monotonic() - started_at))
        if len(self._added) >= _MOST_ADDED:
            with self._lock:
                self._count_added()

    def end(
        self, running: Running, *, kind: str | None = None, queued_s: float | None = None, spent: Spent | None = None
    ) -> None:
        """Count the end of a call.

        Args:
            running: The value that :meth:`begin` returned.
            kind: The kind of the call's error; ``None`` if it succeeded.
            queued_s: How long the call was queued before it was worked on, in seconds; ``None`` if unknown.
            spent: The tokens and cost of its models.
        """
        duration_s = time.monotonic() - running.started_at
        tally = running.tally
        with self._lock:
            tally.in_flight -= 1
            tally.durations.add(duration_s)
            if kind is not None:
                tally.failed(kind)
            if queued_s is not None:
                tally.queued.add(queued_s)
            if spent is not None:
                tally.spent.add(spent)

    def report(self, *, buckets: bool = False) -> dict[str, Any]:
        """Return all counters: ``uptime_ms``, ``counted_ms``, the process's memory, and a map for each group.

        ``buckets``: see :meth:`Durations.report`.
        """
        with self._lock:
            self._count_added()
            since = self._counted_since
            counted = {group: [(name, tally.copy()) for name, tally in self._named(group)] for group in self._groups}
        return self._reported(since, counted, buckets)

    def reset(self, *, buckets: bool = False) -> dict[str, Any]:
        """Reset all counters, and return what :meth:`report` would have; calls in flight are counted when they end."""
        with self._lock:
            self._count_added()
            since, self._counted_since = self._counted_since, time.monotonic()
            counted = {group: [(name, tally.taken()) for name, tally in self._named(group)] for group in self._groups}
            for tallies in self._groups.values():
                for name in [name for name, tally in tallies.items() if not tally.in_flight]:
                    del tallies[name]
        return self._reported(since, counted, buckets)

    def _count_added(self) -> None:
        durations: dict[tuple[str, str, str | None], list[float]] = {}
        # A fixed number of steps: other threads may add calls meanwhile.
        for _ in range(len(self._added)):
            group, name, kind, duration_s = self._added.popleft()
            durations.setdefault((group, name, kind), []).append(duration_s)
        for (group, name, kind), durations_s in durations.items():
            tally = self._groups[group].get(name) or self._new_tally(group, name)
            tally.calls += len(durations_s)
            tally.durations.add_all(durations_s)
            if kind is not None:
                tally.failed(kind, len(durations_s))

    def _new_tally(self, group: str, name: str) -> Tally:
        """Return the tally of a name that has no tally under exactly this name: create it, or share another."""
        tallies = self._groups[group]
        # Redact before the cut: half of a key across the cut would stay.
        known_as = redact(name)[:_MAX_NAME_CHARACTERS]
        tally = tallies.pop(known_as, None)
        if tally is None:
            if len(tallies) >= MAX_NAMES and not self._make_room(group):
                return self._others[group]
            tally = Tally()
        tallies[known_as] = tally
        return tally

    def _make_room(self, group: str) -> bool:
        tallies = self._groups[group]
        longest_unused = islice(tallies.items(), MAX_NAMES // 2)
        # A name with calls in flight stays: their end is counted in the tally where they began.
        ended = [(tally.calls, name) for name, tally in longest_unused if not tally.in_flight]
        if ended:
            self._others[group].merge(tallies.pop(min(ended)[1]))
        return bool(ended)

    def _named(self, group: str) -> list[tuple[str, Tally]]:
        other = self._others[group]
        return [*self._groups[group].items(), *([(OTHER, other)] if other.calls else [])]

    def _reported(self, since: float, counted: Mapping[str, list[tuple[str, Tally]]], buckets: bool) -> dict[str, Any]:
        now = time.monotonic()
        report: dict[str, Any] = {
            "uptime_ms": round((now - self._started_at) * 1000),
            "counted_ms": round((now - since) * 1000),
            **_memory(),
        }
        for group, named in counted.items():
            merged: dict[str, Tally] = {}
            for name, tally in named:
                # Redact again: the name may contain a text that was configured as a key later.
                shown = redact(name)
                if shown in merged:
                    merged[shown].merge(tally)
                else:
                    merged[shown] = tally
            report[group] = {name: tally.report(buckets=buckets) for name, tally in merged.items()}
        return report


#: The counters of this process, which serves one port.
PORT_COUNTERS: Final = Counters()
os.register_at_fork(after_in_child=PORT_COUNTERS.restart)


def _memory() -> dict[str, int | None]:
    """Return ``memory_bytes``, the resident memory of this process, and ``peak_memory_bytes``, its maximum so far."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            found = {name: int(size) * 1024 for name, size in _MEMORY.findall(status.read())}
    except OSError:  # macOS has no /proc; there, the peak is known and counted in bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"VmHWM": peak if sys.platform == "darwin" else peak * 1024}
    return {"memory_bytes": found.get("VmRSS"), "peak_memory_bytes": found.get("VmHWM")}
