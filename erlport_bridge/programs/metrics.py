"""Counts what this port has done: calls, errors by kind and durations, for each operation and each DSPy module."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Tally:
    calls: int = 0
    in_flight: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    total_ms: float = 0.0
    max_ms: float = 0.0
    tokens: int = 0

    def done(self, duration_ms: float, kind: str | None) -> None:
        self.total_ms += duration_ms
        if duration_ms > self.max_ms:
            self.max_ms = duration_ms
        if kind is not None:
            self.errors[kind] += 1

    def report(self) -> dict[str, Any]:
        done = self.calls - self.in_flight
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "errors": dict(self.errors),
            "mean_ms": self.total_ms / done if done else None,
            "max_ms": self.max_ms if done else None,
            "total_tokens": self.tokens,
        }


class Metrics:
    """Counters that any thread may change."""

    def __init__(self) -> None:
        # Protects the tallies; held for a few additions only.
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._started_at = time.monotonic()

    def begin(self, group: str, name: str) -> float:
        """Count the start of a call. Returns what :meth:`end` needs."""
        with self._lock:
            tally = self._tally(group, name)
            tally.calls += 1
            tally.in_flight += 1
        return time.monotonic()

    def add(self, group: str, name: str, started_at: float, *, kind: str | None = None) -> None:
        """Count a call that :meth:`begin` did not: one that is over so quickly that nobody sees it in flight."""
        duration_ms = (time.monotonic() - started_at) * 1000
        with self._lock:
            tally = self._tally(group, name)
            tally.calls += 1
            tally.done(duration_ms, kind)

    def end(self, group: str, name: str, started_at: float, *, kind: str | None = None, tokens: int = 0) -> None:
        """Count the end of a call that :meth:`begin` counted; ``kind`` is that of its error."""
        duration_ms = (time.monotonic() - started_at) * 1000
        with self._lock:
            tally = self._tallies[group, name]
            tally.in_flight -= 1
            tally.tokens += tokens
            tally.done(duration_ms, kind)

    def report(self) -> dict[str, Any]:
        """Give all counters: ``uptime_ms``, ``memory_bytes`` (resident), and a map for each group."""
        with self._lock:
            groups = self._groups()
        return self._with_process(groups)

    def reset(self) -> dict[str, Any]:
        """Begin to count anew, and give what :meth:`report` would have; calls in flight are counted when they end."""
        with self._lock:
            groups = self._groups()
            for key, tally in list(self._tallies.items()):
                if tally.in_flight:
                    self._tallies[key] = _Tally(calls=tally.in_flight, in_flight=tally.in_flight)
                else:
                    del self._tallies[key]
        return self._with_process(groups)

    def _groups(self) -> dict[str, Any]:
        groups: dict[str, Any] = {"operations": {}, "modules": {}}
        for (group, name), tally in self._tallies.items():
            groups.setdefault(group, {})[name] = tally.report()
        return groups

    def _with_process(self, groups: Mapping[str, Any]) -> dict[str, Any]:
        uptime_ms = round((time.monotonic() - self._started_at) * 1000)
        return {"uptime_ms": uptime_ms, "memory_bytes": _resident_bytes(), **groups}

    def _tally(self, group: str, name: str) -> _Tally:
        tally = self._tallies.get((group, name))
        if tally is None:
            tally = self._tallies[group, name] = _Tally()
        return tally


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
