"""Measure how long tasks take, and find the tasks that would get their thread too late."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from erlport_bridge.threads.interruption import Work
from erlport_bridge.threads.stuck import NoThreadError

# How many runs of a function are remembered, and how many are needed to expect anything of the next.
_RUNS: Final = 64
_LEAST_RUNS: Final = 8
# Functions whose runs are remembered; past it, the one that has ended longest ago is forgotten.
_MAX_FUNCTIONS: Final = 256


class Queued(Protocol):
    """A task that waits for a thread.

    Attributes:
        work: Its function as work, which knows how long it has taken.
        ends_at: When the budget of its request ends; ``None``: never.
    """

    work: Work
    ends_at: float | None

    @property
    def name(self) -> str:
        """The name of its function."""


_Queued = TypeVar("_Queued", bound=Queued)


class Durations:
    """How long the functions that threads run have taken lately.

    What is not known counts as nothing, and so does the rest of what runs now. So a task is refused only if it would be
    late even then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, deque[float]] = {}
        # The mean of the runs, once it is known.
        self._expected: dict[str, float] = {}

    @property
    def are_known(self) -> bool:
        """Whether anything is expected of any function."""
        return bool(self._expected)

    def note(self, task: Queued) -> None:
        """Record the run of a task that has ended."""
        name = task.name
        with self._lock:
            runs = self._runs.pop(name, None) or deque(maxlen=_RUNS)
            runs.append(task.work.taken_s)
            self._runs[name] = runs
            if len(runs) >= _LEAST_RUNS:
                self._expected[name] = sum(runs) / len(runs)
            if len(self._runs) > _MAX_FUNCTIONS:
                oldest = next(iter(self._runs))
                del self._runs[oldest]
                self._expected.pop(oldest, None)

    def check(self, task: Queued, ahead: Iterable[Queued], threads: int) -> None:
        """Check that a task may get its thread in time, after the tasks that are ahead of it.

        Raises:
            NoThreadError: It would be late.
        """
        if not self._expected or task.ends_at is None:
            return
        left_s = task.ends_at - time.monotonic()
        waiting, wait_s = 0, 0.0
        for other in ahead:
            waiting += 1
            wait_s += self._expected_s(other) / threads
        if wait_s > left_s:
            raise _late(waiting, wait_s, left_s)

    def late(self, in_order: Iterable[_Queued], threads: int) -> list[tuple[_Queued, NoThreadError]]:
        """Return the queued tasks that would get their thread too late, each with its error."""
        if not self._expected:
            return []
        now = time.monotonic()
        found = []
        waiting, wait_s = 0, 0.0
        for task in in_order:
            left_s = math.inf if task.ends_at is None else task.ends_at - now
            if wait_s > left_s:
                found.append((task, _late(waiting, wait_s, left_s)))
                # It does not delay those behind it.
                continue
            waiting += 1
            wait_s += self._expected_s(task) / threads
        return found

    def _expected_s(self, task: Queued) -> float:
        return self._expected.get(task.name, 0.0)


def _late(waiting: int, wait_s: float, left_s: float) -> NoThreadError:
    message = f"{waiting} tasks wait for a thread, about {wait_s:.1f} s at the rate of the last ones, and "
    message += f"the call has {max(0.0, left_s):.1f} s left"
    return NoThreadError(message, retry_after=math.ceil(wait_s - left_s))
