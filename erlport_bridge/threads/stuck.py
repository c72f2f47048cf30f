"""Repeat interrupts of work until it ends, and count the threads that are stuck in work that does not end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from erlport_bridge import request
from erlport_bridge.errors import OperationError
from erlport_bridge.threads.interruption import Work

# Far longer than a thread waits for the GIL, even among many threads on a busy machine.
_STUCK_AFTER_S: Final = 1.0
# An interrupt that could not be set is retried after _RETRY_S. An interrupt that the work has caught is repeated after
# _FIRST_REPEAT_S, which doubles up to _LAST_REPEAT_S, so that clean-up code has time.
_RETRY_S: Final = 0.005
_FIRST_REPEAT_S: Final = 1.0
_LAST_REPEAT_S: Final = 30.0

_log: Final = logging.getLogger("erlport_bridge")


class NoThreadError(OperationError):
    """The thread pool has no thread for further work; kind ``overloaded``."""

    def __init__(self, message: str) -> None:
        super().__init__("overloaded", message, stage="queue")


@dataclass
class _Interruption:
    request_id: str | None
    began_at: float
    repeat_at: float
    repeat_after_s: float = _FIRST_REPEAT_S


class StuckThreads:
    """The work that was interrupted and has not ended; a thread that still runs it after a second is *stuck*.

    Interrupts are repeated until the work ends.

    Args:
        limit: Largest number of stuck threads; more than ``limit`` are too many.
        became_stuck: Called, without a lock held, when a thread has become stuck.
    """

    def __init__(self, limit: int, became_stuck: Callable[[], None]) -> None:
        self._limit = limit
        self._became_stuck = became_stuck
        # Guards all fields below.
        self._changed = threading.Condition()
        self._interruptions: dict[Work, _Interruption] = {}
        self._stuck: set[Work] = set()
        self._is_watched = False
        self._ask: Callable[[str], None] | None = None
        self._has_asked = False
        self._interrupted = 0

    def ask_for_recycling(self, ask: Callable[[str], None]) -> None:
        """Call ``ask(reason)`` once, when too many threads are stuck."""
        self._ask = ask

    def interrupt(self, work: Work, request_id: str | None = None) -> None:
        """Interrupt work, and repeat that until it ends; non-blocking, from any thread."""
        is_new = not work.is_cancelled
        is_sent = work.interrupt()
        with self._changed:
            self._interrupted += is_new and (is_sent or not work.has_ended)
            if work.has_ended or work in self._interruptions:
                return
            now = time.monotonic()
            self._interruptions[work] = _Interruption(request_id, now, now + _FIRST_REPEAT_S)
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, name="stuck", daemon=True).start()

    def ended(self, work: Work) -> None:
        """Record that cancelled work has ended; called by the thread that has run it."""
        with self._changed:
            self._interruptions.pop(work, None)
            self._stuck.discard(work)

    @property
    def interrupted(self) -> int:
        """Return the number of interrupts of running work."""
        return self._interrupted

    def count(self) -> int:
        """Return the number of threads that are stuck now."""
        return len(self._stuck)

    def count_pooled(self) -> int:
        """Return the number of threads of the thread pool that are stuck now."""
        with self._changed:
            return sum(work.is_pooled for work in self._stuck)

    def excess(self) -> int:
        """Return by how much the number of stuck threads exceeds the limit."""
        return max(0, len(self._stuck) - self._limit)

    def _watch(self) -> None:
        while True:
            with self._changed:
                followed = dict(self._interruptions)
                if not followed:
                    self._is_watched = False
                    return
            for work, interruption in followed.items():
                self._follow(work, interruption)
            time.sleep(_RETRY_S if any(not work.was_interrupted for work in followed) else 10 * _RETRY_S)

    def _follow(self, work: Work, interruption: _Interruption) -> None:
        now = time.monotonic()
        if not work.was_interrupted:
            work.interrupt()
        elif now >= interruption.repeat_at and work.interrupt():
            interruption.repeat_after_s = min(2 * interruption.repeat_after_s, _LAST_REPEAT_S)
            interruption.repeat_at = now + interruption.repeat_after_s
        if now - interruption.began_at >= _STUCK_AFTER_S and work not in self._stuck:
            place = work.place()
            with self._changed:
                if work not in self._interruptions:
                    return
                self._stuck.add(work)
            self._log_stuck(work, interruption, place)
            self._became_stuck()

    def _log_stuck(self, work: Work, interruption: _Interruption, place: str | None) -> None:
        # The log entry for the other side takes the request id from here.
        request.request_id.set(interruption.request_id)
        of_request = f" for request {interruption.request_id!r}" if interruption.request_id else ""
        at = f", now in {place}" if place else ""
        _log.warning(
            "a thread is stuck: %s%s goes on although it was interrupted%s; stuck threads: %d",
            name_of(work.name),
            of_request,
            at,
            len(self._stuck),
        )
        request.request_id.set(None)
        if self.excess() and self._ask is not None and not self._has_asked:
            self._has_asked = True
            self._ask(f"{len(self._stuck)} of its threads are stuck in work that does not end")


def name_of(function: Any) -> str:
    """Return the qualified name of a function, without the wrappers around it."""
    while hasattr(function, "func"):  # a partial function
        inner = function.func
        # `asyncio.to_thread` runs a function through `Context.run`.
        is_context = getattr(inner, "__name__", "") == "run" and function.args
        function = function.args[0] if is_context else inner
    if isinstance(function, tuple):
        return ".".join(function)
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{function.__module__}.{function.__qualname__}"
