"""One thread reads, and runs what is quick itself; when that takes longer than expected, another thread reads on.

That is a thread for it alone, or the one of the event loop (see ``event_loop``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

# A function that has not returned after two of them is not waited for.
_TICK_S: Final = 0.002
# The watch stops after so many without anything to watch, and costs an idle process nothing.
_QUIET_TICKS: Final = 50


class Leadership:
    """Who reads.

    A hand-over between threads costs about 40 microseconds, more than most functions need. So the thread that has
    read a call runs it in place, between :meth:`begin` and :meth:`end`. A thread that watches starts another reader if
    the end does not come.

    Args:
        lead: Reads until another thread does, by whichever of the ways below.
        overdue: Told what :meth:`begin` was told if that takes too long, before another thread leads.
    """

    def __init__(self, lead: Callable[[], None], overdue: Callable[[Any], None]) -> None:
        self._lead = lead
        self._overdue = overdue
        self._running: list[Any] | None = None
        # A thread that has led, and waits at its lock until it is wanted again.
        self._parked: threading.Lock | None = None
        self._parking = threading.Lock()
        self._watch_sleeps = True
        self._wake_watch = threading.Event()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def begin(self, what: object) -> list[Any]:
        """Say what the leader runs now; gives what :meth:`end` must be told."""
        running = self._running = [what]
        if self._watch_sleeps:
            self._watch_sleeps = False
            self._wake_watch.set()
        return running

    def end(self, running: list[Any]) -> bool:
        """Say that it has run; ``False`` if another thread has become the leader meanwhile."""
        try:
            # Whoever empties it is the one who ends it: `pop` is one step under the interpreter's lock, and cheaper
            # than a lock of our own.
            running.pop()
        except IndexError:
            return False
        self._running = None
        return True

    def pass_on(self) -> None:
        """Have another thread lead, which is none that leads or has led just now."""
        with self._parking:
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.release()
        else:
            threading.Thread(target=self._lead_and_park, name="reader", daemon=True).start()

    def _lead_and_park(self) -> None:
        wake = threading.Lock()
        wake.acquire()
        while True:
            self._lead()
            with self._parking:
                # One is enough: those that a function has kept are rare.
                if self._parked is not None:
                    return
                self._parked = wake
            wake.acquire()

    def _watch(self) -> None:
        while self._wake_watch.wait():
            self._wake_watch.clear()
            quiet_ticks = 0
            while quiet_ticks < _QUIET_TICKS:
                seen = self._running
                time.sleep(_TICK_S)
                quiet_ticks = 0 if seen is not None else quiet_ticks + 1
                if seen is None:
                    continue
                what = seen[:]
                if self.end(seen):
                    self._overdue(*what)
                    self.pass_on()
            self._watch_sleeps = True
            if self._running is not None:  # begun since it was last looked at
                self._wake_watch.set()
