"""Hold the request that the current code runs for, in context variables that tasks and threads inherit."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from functools import partial


class Waiting:
    """The items of a request that wait for a thread or for their turn, and the total time that any item waited."""

    def __init__(self) -> None:
        # Different threads add and discard items.
        self._lock = threading.Lock()
        self._items: set[object] = set()
        self._since = 0.0
        self._ended_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: object) -> None:
        """Add an item that waits."""
        with self._lock:
            if not self._items:
                self._since = time.monotonic()
            self._items.add(item)

    def discard(self, item: object) -> None:
        """Discard an item that waits no more, if it did."""
        with self._lock:
            if item in self._items:
                self._items.remove(item)
                if not self._items:
                    self._ended_s += time.monotonic() - self._since

    def waited_s(self) -> float:
        """Return the total time during which at least one item waited, in seconds."""
        with self._lock:
            return self._ended_s + (time.monotonic() - self._since if self._items else 0.0)


#: The id that the caller gave its request, for its errors and log entries; ``None`` until the call's options are read.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

#: When the current call was received, by the clock ``time.monotonic``.
received_at: ContextVar[float | None] = ContextVar("received_at", default=None)

#: Holds the tasks that the current code has handed to the thread pool and that no thread has begun.
queued: ContextVar[Waiting | None] = ContextVar("queued", default=None)

#: Whether to drop what libraries print and log for a console, which nobody sees.
is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)

# The running tasks by request id; several requests may have one id. Only the event loop's thread uses it.
_tasks: dict[str, set[asyncio.Task[object]]] = {}


def begin(name: str | None) -> None:
    """Record that the current code runs for the request of this id; :func:`cancel` finds the current task by it."""
    request_id.set(name)
    if name is None:
        return
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop: a plain function that only looks something up
        return
    if task is not None:
        _tasks.setdefault(name, set()).add(task)
        task.add_done_callback(partial(_end, name))


def cancel(name: str) -> int:
    """Cancel the tasks that run for requests of this id; return how many there were."""
    tasks = _tasks.get(name, set())
    for task in tasks:
        task.cancel()
    return len(tasks)


def _end(name: str, task: asyncio.Task[object]) -> None:
    tasks = _tasks[name]
    tasks.discard(task)
    if not tasks:
        del _tasks[name]


class Deadline:
    """The start of a call's budget, from which the time left is computed at any later point."""

    def __init__(self) -> None:
        self._started_at = received_at.get() or time.monotonic()

    def left_s(self, timeout_ms: int | None) -> float | None:
        """Return how much of ``timeout_ms`` is left, in seconds, at least 0; ``None`` stands for no limit."""
        if timeout_ms is None:
            return None
        return max(0.0, timeout_ms / 1000 - (time.monotonic() - self._started_at))
