"""Hold the request that the current code runs for, in context variables that tasks and threads inherit."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from functools import partial

from erlport_bridge.request import running


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

#: Who makes the call, for a fair share of what calls wait for; ``None`` if the call does not say.
caller: ContextVar[str | None] = ContextVar("caller", default=None)

#: What Elixir gets back with log entries and with calls of its functions, to know for whom they are; see the option
#: ``context`` of a call.
caller_context: ContextVar[str | None] = ContextVar("caller_context", default=None)

#: When the budget of the current run ends, by the clock ``time.monotonic``; ``None``: never.
ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)

#: When the current call was received, by the clock ``time.monotonic``.
received_at: ContextVar[float | None] = ContextVar("received_at", default=None)

#: Holds the tasks that the current code has handed to the thread pool and that no thread has begun.
queued: ContextVar[Waiting | None] = ContextVar("queued", default=None)

#: Whether to drop what libraries print and log for a console, which nobody sees.
is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)

# The running tasks by request id; several requests may have one id. Only the event loop's thread uses it.
_tasks: dict[str, set[asyncio.Task[object]]] = {}


def begin(name: str | None, of_caller: str | None = None, context: str | None = None) -> None:
    """Record that the current code runs for a request of this id and this caller; :func:`cancel` finds it by the id.

    ``context``: see :data:`caller_context`.
    """
    request_id.set(name)
    caller.set(of_caller)
    caller_context.set(context)
    call = running.current.get()
    if call is not None:
        call.request_id, call.caller = name, of_caller
    if name is None:
        return
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop: a plain function that only looks something up
        return
    # A call that brings much begins before its options are read, and then again.
    if task is not None and task not in _tasks.get(name, ()):
        _tasks.setdefault(name, set()).add(task)
        task.add_done_callback(partial(_end, name))


def cancel(name: str) -> int:
    """Cancel the tasks that run for requests of this id; return how many there were."""
    tasks = _tasks.get(name, set())
    for task in tasks:
        task.cancel()
    return len(tasks)


def has_result() -> None:
    """Record that the current code has its result, which nothing changes now: :func:`cancel` finds it no more."""
    name, task = request_id.get(), asyncio.current_task()
    if name is not None and task is not None:
        _end(name, task)


def _end(name: str, task: asyncio.Task[object]) -> None:
    tasks = _tasks.get(name, set())
    tasks.discard(task)
    if not tasks:
        _tasks.pop(name, None)


class Deadline:
    """The start of a budget, from which the time left is computed at any later point.

    Args:
        started_at: When the budget began, by the clock ``time.monotonic``; by default, when the call was received.
    """

    def __init__(self, started_at: float | None = None) -> None:
        self._started_at = started_at or received_at.get() or time.monotonic()

    def left_s(self, timeout_ms: int | None) -> float | None:
        """Return how much of ``timeout_ms`` is left, in seconds, at least 0; ``None`` stands for no limit."""
        if timeout_ms is None:
            return None
        return max(0.0, timeout_ms / 1000 - (time.monotonic() - self._started_at))
