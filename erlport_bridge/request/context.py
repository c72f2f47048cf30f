"""The request for which code runs, wherever it runs."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from functools import partial


class Waiting:
    """What waits for a thread or for its turn, and how long there was anything that did."""

    def __init__(self) -> None:
        # Work is handed in and taken by different threads.
        self._lock = threading.Lock()
        self._items: set[object] = set()
        self._since = 0.0
        self._ended_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: object) -> None:
        """Have something wait."""
        with self._lock:
            if not self._items:
                self._since = time.monotonic()
            self._items.add(item)

    def discard(self, item: object) -> None:
        """Have something wait no more, if it did."""
        with self._lock:
            if item in self._items:
                self._items.remove(item)
                if not self._items:
                    self._ended_s += time.monotonic() - self._since

    def waited_s(self) -> float:
        """Give how long something has waited, in seconds."""
        with self._lock:
            return self._ended_s + (time.monotonic() - self._since if self._items else 0.0)


#: The id that the caller gave its request, once the options of the call have been read; for its errors and its lines in
#: the log.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

#: When the call that runs here had come, by the clock ``time.monotonic``.
received_at: ContextVar[float | None] = ContextVar("received_at", default=None)

#: Gets what the code that runs here hands to threads, as long as none of them has begun it.
queued: ContextVar[Waiting | None] = ContextVar("queued", default=None)

#: What libraries print and log here is for a console that nobody sees.
is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)

# What runs for an id; an id may be given more than once. Only the thread of the event loop comes here.
_tasks: dict[str, set[asyncio.Task[object]]] = {}


def begin(name: str | None) -> None:
    """Say that what runs from here on is for the request of this id; :func:`cancel` finds the running task by it."""
    request_id.set(name)
    if name is None:
        return
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop: a function that only looks something up
        return
    if task is not None:
        _tasks.setdefault(name, set()).add(task)
        task.add_done_callback(partial(_end, name))


def cancel(name: str) -> int:
    """Cancel what runs for the requests of this id; gives how many there were."""
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
    """When a call came, so that what is left of its budget is known at any later point."""

    def __init__(self) -> None:
        self._started_at = received_at.get() or time.monotonic()

    def left_s(self, timeout_ms: int | None) -> float | None:
        """Give what is left of ``timeout_ms`` in seconds, at least 0; ``None``: no limit."""
        if timeout_ms is None:
            return None
        return max(0.0, timeout_ms / 1000 - (time.monotonic() - self._started_at))
