"""The calls of one port that wait for their answers, and what runs for each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from erlport_bridge.port.protocol import Call, UnreadableCall
from erlport_bridge.threads import Task, Work


class Owed:
    """One call until it has its answer, and what runs for it, by which it can be cancelled.

    Attributes:
        function: What is called, as soon as it is known.
        task: A coroutine function's.
        future: A plain function's, in a thread of the pool.
        work: A plain function's that runs where its call was read.
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


class InFlight:
    """The calls that are not answered, but for one that has just been read and runs in the thread that has read it.

    Args:
        max_calls: Most of them.

    Attributes:
        count: How many there are.
    """

    def __init__(self, max_calls: int) -> None:
        self.max_calls = max_calls
        self.count = 0
        self._lock = threading.Lock()
        self._by_id: dict[int, Owed] = {}

    def has_room(self) -> bool:
        """Tell whether one more may begin."""
        return self.count < self.max_calls

    def add(self, owed: Owed) -> bool:
        """Count a call; ``False`` if it is one too many, and has to be refused."""
        with self._lock:
            has_room = self.has_room()
            self.count += 1
            if has_room:
                self._by_id[owed.event.id] = owed
        return has_room

    def add_overdue(self, owed: Owed) -> None:
        """Count a call that runs already, which may just be answered."""
        with self._lock:
            self.count += 1
            if not owed.is_answered:
                self._by_id[owed.event.id] = owed

    def get(self, call_id: int) -> Owed | None:
        """Give the call of this id; ``None`` if there is none that can still be cancelled."""
        return self._by_id.get(call_id)

    def answer(self, owed: Owed) -> bool:
        """Note that a call gets its answer; ``False`` if it has one."""
        with self._lock:
            if owed.is_answered:
                return False
            owed.is_answered = True
            self.count -= 1
            if self._by_id.get(owed.event.id) is owed:
                del self._by_id[owed.event.id]
        return True
