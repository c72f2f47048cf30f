"""Decide which thread of the process is the *leader*: the one thread that reads the port.

The leader runs quick functions itself. When one takes longer than expected, another thread becomes the leader: a thread
for reading only, or the event loop's thread (see ``event_loop``). This is the leader/followers pattern.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from erlport_bridge.port.implementation import native

# A function that has not returned after two ticks is overdue: another thread becomes the leader.
_TICK_S: Final = 0.002
# The watching thread sleeps after so many ticks with nothing to watch, so that it costs an idle process nothing.
_QUIET_TICKS: Final = 50


class Leadership:
    """The leadership of one port: which thread reads.

    A hand-over between threads takes about 40 microseconds, longer than most functions run. So the leader runs a
    function in place, between :meth:`begin` and :meth:`end`. A watching thread starts another leader if :meth:`end` is
    not called in time.

    Args:
        lead: Reads until another thread leads, after :meth:`pass_on` or an overrun.
        overdue: Called with the argument of :meth:`begin` on an overrun, before another thread leads.
    """

    def __init__(self, lead: Callable[[], None], overdue: Callable[[Any], None]) -> None:
        self._lead = lead
        self._overdue = overdue
        self._running: list[Any] | None = None
        self._turns = None if native is None else native.Turns()
        # The lock of a former leader's thread, which waits there to lead again.
        self._parked: threading.Lock | None = None
        self._parking = threading.Lock()
        self._watch_sleeps = True
        self._wake_watch = threading.Event()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def begin(self, what: object) -> list[Any]:
        """Record what the leader runs now; return the token to pass to :meth:`end`."""
        running = self._running = [what]
        if self._turns is not None:
            self._turns.begin()
        if self._watch_sleeps:
            self._watch_sleeps = False
            self._wake_watch.set()
        return running

    def end(self, running: list[Any]) -> bool:
        """Record that the leader's function has ended; return ``False`` if another thread leads since."""
        try:
            # The thread whose `pop` succeeds ends it: `pop` is atomic under the GIL, and cheaper than a lock.
            running.pop()
        except IndexError:
            return False
        self._running = None
        if self._turns is not None:
            self._turns.end()
        return True

    def pass_on(self) -> None:
        """Make another thread the leader: a parked former leader, or a new thread."""
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
                # One parked thread is enough: overruns are rare.
                if self._parked is not None:
                    return
                self._parked = wake
            wake.acquire()

    def _watch(self) -> None:
        while self._wake_watch.wait():
            self._wake_watch.clear()
            while (seen := self._overrun()) is not None:
                what = seen[:]
                if self.end(seen):
                    self._overdue(*what)
                    self.pass_on()
            self._watch_sleeps = True
            if self._running is not None:  # begun since the last look
                self._wake_watch.set()

    def _overrun(self) -> list[Any] | None:
        """Wait until a function is overdue, and return its token; ``None``: nothing has run for some time."""
        if self._turns is not None:
            while number := self._turns.overrun(_TICK_S, _QUIET_TICKS):
                running = self._running
                if running is not None and self._turns.runs(number):
                    return running
            return None
        quiet_ticks = 0
        while quiet_ticks < _QUIET_TICKS:
            seen = self._running
            time.sleep(_TICK_S)
            if seen:
                return seen
            quiet_ticks = 0 if seen is not None else quiet_ticks + 1
        return None
