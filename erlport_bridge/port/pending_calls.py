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
    """

    __slots__ = ("event", "function", "future", "is_answered", "is_cancelled", "received_at", "task", "work")

    def __init__(self, event: Call | UnreadableCall) -> None:
        self.event = event
        self.received_at = time.monotonic()
        self.is_answered = False
        self.is_cancelled = False
        self.function: Callable[..., Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self.future: Task[Any] | None = None
        self.work: Work | None = None


class PendingCalls:
    """The pending calls of one port, without the call that the leader has just read and runs itself.

    Args:
        max_calls: Largest number of pending calls.

    Attributes:
        count: The number of pending calls.
    """

    def __init__(self, max_calls: int) -> None:
        self.max_calls = max_calls
        self.count = 0
        self._lock = threading.Lock()
        self._by_id: dict[int, PendingCall] = {}

    def has_room(self) -> bool:
        """Return whether one more call may start."""
        return self.count < self.max_calls

    def add(self, pending: PendingCall) -> bool:
        """Count a call; return ``False`` if it exceeds the limit and must be refused."""
        with self._lock:
            has_room = self.has_room()
            self.count += 1
            if has_room:
                self._by_id[pending.event.id] = pending
        return has_room

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
            if self._by_id.get(pending.event.id) is pending:
                del self._by_id[pending.event.id]
        return True
