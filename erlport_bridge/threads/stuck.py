"""Repeat interrupts of work until it ends, and count the threads that are stuck in work that does not end.

A thread that goes on for a second after it was interrupted is *stuck*: another thread takes its place. Most stuck work
is only slow, such as a request to a database, and ends some seconds later. A thread that goes on for much longer is
*lost*.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
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
# Threads that become stuck together are logged together: when no more have come for _QUIET_S, at the latest _BURST_S
# after the first.
_QUIET_S: Final = 0.25
_BURST_S: Final = 2.0
# Most names in one line of the log.
_MOST_NAMED: Final = 5
# Threads that are all in use for a moment are no reason for another process.
_NONE_FREE_S: Final = 5.0

#: After how many seconds an interrupted thread that goes on is lost.
DEFAULT_LOST_AFTER_S: Final = 30.0

_log: Final = logging.getLogger("erlport_bridge")


class NoThreadError(OperationError):
    """The thread pool has no thread for further work; kind ``overloaded``."""

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__("overloaded", message, stage="queue", retry_after=retry_after)


@dataclass
class _Interruption:
    request_id: str | None
    began_at: float
    repeat_at: float
    # Whether the last interrupt could be asked for.
    is_asked: bool
    repeat_after_s: float = _FIRST_REPEAT_S


class StuckThreads:
    """The work that was interrupted and has not ended. Interrupts are repeated until the work ends.

    Args:
        limit: Largest number of stuck threads that are replaced; more than ``limit`` lost ones are too many.
        became_stuck: Called, without a lock held, when other threads may take the place of stuck ones.
        none_free_s: Returns for how many seconds no thread has been free for other work.
        lost_after_s: After how many seconds an interrupted thread is lost.
    """

    def __init__(
        self,
        limit: int,
        became_stuck: Callable[[], None],
        none_free_s: Callable[[], float],
        lost_after_s: float = DEFAULT_LOST_AFTER_S,
    ) -> None:
        self._limit = limit
        self._became_stuck = became_stuck
        self._none_free_s = none_free_s
        self._lost_after_s = lost_after_s
        # Guards all fields below.
        self._changed = threading.Condition()
        self._interruptions: dict[Work, _Interruption] = {}
        self._stuck: set[Work] = set()
        # The stuck threads that the log does not name yet, in the order in which they became stuck.
        self._unlogged: dict[Work, float] = {}
        self._is_watched = False
        self._ask: Callable[[str], None] | None = None
        self._has_asked = False
        self._interrupted = 0

    def ask_for_recycling(self, ask: Callable[[str], None]) -> None:
        """Call ``ask(reason)`` once, when too many threads are lost and none is free."""
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
            self._interruptions[work] = _Interruption(request_id, now, now + _FIRST_REPEAT_S, is_sent)
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, name="stuck", daemon=True).start()

    def ended(self, work: Work) -> None:
        """Record that cancelled work has ended; called by the thread that has run it."""
        with self._changed:
            self._interruptions.pop(work, None)
            self._stuck.discard(work)
            self._unlogged.pop(work, None)

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
        """Return by how much the number of stuck threads exceeds the limit.

        A process that has asked to be replaced has no limit: it is to work off its calls, and ends soon.
        """
        return 0 if self._has_asked else max(0, len(self._stuck) - self._limit)

    def count_lost(self) -> int:
        """Return the number of threads that are lost now."""
        now = time.monotonic()
        with self._changed:
            return sum(now - self._interruptions[work].began_at >= self._lost_after_s for work in self._stuck)

    def are_too_many_lost(self, others: int) -> bool:
        """Return whether so many threads are lost that none is left of ``others``."""
        return self.excess() >= others and self.count_lost() - self._limit >= others

    def _watch(self) -> None:
        while True:
            with self._changed:
                followed = dict(self._interruptions)
                if not followed:
                    self._is_watched = False
                    return
            for work, interruption in followed.items():
                self._follow(work, interruption)
            self._log_stuck()
            self._ask_if_lost()
            # The thread of an interrupt that was asked for raises it itself, unless it runs other functions by then.
            waiting = [each for work, each in followed.items() if not work.was_interrupted]
            age_s = time.monotonic() - max((each.began_at for each in waiting), default=0.0)
            is_urgent = not all(each.is_asked for each in waiting)
            time.sleep(_RETRY_S if is_urgent else min(max(age_s / 10, _RETRY_S), 10 * _RETRY_S))

    def _follow(self, work: Work, interruption: _Interruption) -> None:
        now = time.monotonic()
        if not work.was_interrupted:
            interruption.is_asked = work.interrupt(is_repeated=False)
        elif now >= interruption.repeat_at and work.interrupt():
            interruption.repeat_after_s = min(2 * interruption.repeat_after_s, _LAST_REPEAT_S)
            interruption.repeat_at = now + interruption.repeat_after_s
        if now - interruption.began_at >= _STUCK_AFTER_S and work not in self._stuck:
            with self._changed:
                if work not in self._interruptions:
                    return
                self._stuck.add(work)
                self._unlogged[work] = now
            self._became_stuck()

    def _log_stuck(self) -> None:
        """Log the threads that have become stuck together, in one line."""
        now = time.monotonic()
        with self._changed:
            times = list(self._unlogged.values())
            if not times or (now - times[-1] < _QUIET_S and now - times[0] < _BURST_S):
                return
            works = list(self._unlogged)
            ids = [self._interruptions[work].request_id for work in works]
            count = len(self._stuck)
            self._unlogged.clear()
        place = works[0].place()
        at = f", now in {place}" if place else ""
        if len(works) > 1:
            what = f"{len(works)} threads are stuck: {_counted(works)}{_of_requests(ids)} go on although they were"
            _log.warning("%s interrupted%s; stuck threads: %d", what, at, count)
            return
        # The log entry for the other side takes the request id from here.
        request.request_id.set(ids[0])
        of_request = f" for request {ids[0]!r}" if ids[0] else ""
        what = f"a thread is stuck: {name_of(works[0].name)}{of_request} goes on although it was"
        _log.warning("%s interrupted%s; stuck threads: %d", what, at, count)
        request.request_id.set(None)

    def _ask_if_lost(self) -> None:
        if self._ask is None or self._has_asked or len(self._stuck) <= self._limit:
            return
        lost = self.count_lost()
        if lost > self._limit and self._none_free_s() >= min(_NONE_FREE_S, self._lost_after_s):
            self._has_asked = True
            self._ask(f"{lost} of its threads are stuck for more than {self._lost_after_s:g} s, and none is free")
            self._became_stuck()


def _counted(works: list[Work]) -> str:
    """Return the names of the functions of some work, with their numbers, the most frequent first."""
    names = Counter(name_of(work.name) for work in works).most_common(_MOST_NAMED + 1)
    text = [f"{name} ({count})" if count > 1 else name for name, count in names[:_MOST_NAMED]]
    return ", ".join([*text, "others"] if len(names) > _MOST_NAMED else text)


def _of_requests(ids: list[str | None]) -> str:
    """Return the ids of some requests, as far as they have one, as a part of a sentence."""
    known = list(dict.fromkeys(name for name in ids if name))
    if not known:
        return ""
    others = ", …" if len(known) > _MOST_NAMED else ""
    return f" for requests {', '.join(map(repr, known[:_MOST_NAMED]))}{others}"


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
