"""Track the pending calls of one port, and the task or thread that runs each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from erlport_bridge.port.protocol import Call, UnreadableCall
from erlport_bridge.threads import Task, Work


class PendingCall:
    """A call that has no answer yet, and the task or thread that runs it, for cancellation.

    Attributes:
        function: The called function, as soon as it is known.
        task: The task of a coroutine function.
        future: The future of a plain function that runs in the thread pool.
        work: The work of a plain function that runs in the thread that read its call.
        more: Its caller, if it has a place that only callers with few calls have.
    """

    __slots__ = ("event", "function", "future", "is_answered", "is_cancelled", "more", "received_at", "task", "work")

    def __init__(self, event: Call | UnreadableCall) -> None:
        self.event = event
        self.received_at = time.monotonic()
        self.is_answered = False
        self.is_cancelled = False
        self.function: Callable[..., Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self.future: Task[Any] | None = None
        self.work: Work | None = None
        self.more: str | None = None


class PendingCalls:
    """The pending calls of one port, without the call that the leader has just read and runs itself.

    Args:
        max_calls: Largest number of pending calls.

    Attributes:
        count: The number of pending calls.
        answered: The number of answered calls, without those that the leader has run itself.
    """

    def __init__(self, max_calls: int) -> None:
        self.max_calls = max_calls
        self.count = 0
        self.answered = 0
        self._lock = threading.Lock()
        self._by_id: dict[int, PendingCall] = {}
        # One caller could fill all places. So when they are full, each caller that
        # gives its name gets some more, a quarter of all at most.
        self._most_more = max_calls // 64
        self._all_more = max_calls // 4
        # The ids of the calls that have such a place, by caller.
        self._more: dict[str, set[int]] = {}

    def has_room(self) -> bool:
        """Return whether one more call may start."""
        return self.count < self.max_calls

    def add(self, pending: PendingCall) -> bool:
        """Count a call; return ``False`` if it exceeds the limit and must be refused."""
        with self._lock:
            has_room = self.has_room() or self._has_more_room(pending)
            self.count += 1
            if has_room:
                self._by_id[pending.event.id] = pending
        return has_room

    def _has_more_room(self, pending: PendingCall) -> bool:
        """Take a place that only callers with few calls have."""
        if self.count >= self.max_calls + self._all_more:
            return False
        caller = _caller_of(pending.event)
        if caller is None:
            return False
        taken = self._more.setdefault(caller, set())
        if len(taken) >= self._most_more:
            return False
        taken.add(pending.event.id)
        pending.more = caller
        return True

    def add_overdue(self, pending: PendingCall) -> None:
        """Count a call that runs already; it may be answered at this moment."""
        with self._lock:
            self.count += 1
            if not pending.is_answered:
                self._by_id[pending.event.id] = pending

    def get(self, call_id: int) -> PendingCall | None:
        """Return the pending call of this id, or ``None`` if no such call can be cancelled any more."""
        return self._by_id.get(call_id)

    def answer(self, pending: PendingCall) -> bool:
        """Record that a call gets its answer; return ``False`` if it has one already."""
        with self._lock:
            if pending.is_answered:
                return False
            pending.is_answered = True
            self.count -= 1
            self.answered += 1
            if self._by_id.get(pending.event.id) is pending:
                del self._by_id[pending.event.id]
            if pending.more is not None:
                self._more[pending.more].discard(pending.event.id)
                if not self._more[pending.more]:
                    del self._more[pending.more]
        return True


def _caller_of(event: Call | UnreadableCall) -> str | None:
    """Return who makes a call, if its last argument is a map of options that says so; ``None`` if nothing does."""
    options = event.arguments[-1] if isinstance(event, Call) and event.arguments else None
    if not isinstance(options, dict):
        return None
    named = next((options[key] for key in ("caller", "session_id") if isinstance(options.get(key), str)), None)
    return None if named is None else str(named)
