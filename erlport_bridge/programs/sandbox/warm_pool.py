"""A pool of warm sandboxes, started before a call needs them, since a start takes a second.

A sandbox runs the programs of one call and ends with the call, so no program sees data of another call. The pool keeps
only sandboxes that have run nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from erlport_bridge.counting import Durations
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import quoted

#: Default of ``DSPEX_WARM_SANDBOXES``: the number of sandboxes kept ready for later calls; each takes about 180 MB.
DEFAULT_WARM: Final = 1
_MAX_WARM: Final = 16
# A sandbox that no call takes for this long is ended. The next call then starts a new one.
_IDLE_S: Final = 300.0
# A start keeps a core busy for a second; more starts at once only delay each other.
_MAX_STARTING: Final = max(2, os.cpu_count() or 2)


class WarmPool:
    """A pool of started items, such as sandboxes.

    Args:
        start: Returns a started item; slow, called in a new thread.
        kill: Ends an unused item.
        size: Number of idle items to keep ready.
        idle_s: How long an idle item is kept, in seconds.
    """

    def __init__(
        self, start: Callable[[], Any], kill: Callable[[Any], None], *, size: int, idle_s: float = _IDLE_S
    ) -> None:
        self._start = start
        self._kill = kill
        self._size = size
        self._idle_s = idle_s
        # Guards all attributes below; never held while an item is started or killed.
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, Any]] = deque()
        self._waiting: deque[Future[Any]] = deque()
        self._starting = 0
        self._failed_starts = 0
        # Successful starts, and their durations.
        self._starts = 0
        self._start_durations = Durations()
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def take(self) -> Future[Any]:
        """Return a future with an item; a caller that needs no item any more cancels the future or returns the item."""
        taken: Future[Any] = Future()
        with self._lock:
            if self._is_closed:
                taken.set_exception(OperationError("cancelled", "this process is about to end"))
                return taken
            if self._idle:
                taken.set_result(self._idle.popleft()[1])
            else:
                self._waiting.append(taken)
            self._fill()
        return taken

    def give_back(self, unused: Any) -> None:
        """Take back an item that has run nothing."""
        with self._lock:
            is_kept = self._keep(unused)
        if not is_kept:
            self._kill(unused)

    def report(self) -> dict[str, Any]:
        """Return the numbers of ``ready`` and ``starting`` items, of starts and failed starts, and the durations."""
        with self._lock:
            return {
                "ready": len(self._idle),
                "starting": self._starting,
                "starts": self._starts,
                "failed_starts": self._failed_starts,
                "start_ms": self._start_durations.report(),
            }

    def close(self) -> None:
        """End all idle items, and start no more."""
        with self._lock:
            self._is_closed = True
            idle = [item for _, item in self._idle]
            self._idle.clear()
            waiting = list(self._waiting)
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
        for future in waiting:
            future.cancel()
        for item in idle:
            self._kill(item)

    def _fill(self) -> None:
        # Waiting callers come first: starts of idle items must not delay them.
        waiting = sum(not future.cancelled() for future in self._waiting)
        wanted = waiting if waiting else self._size - len(self._idle)
        while not self._is_closed and self._starting < min(wanted, _MAX_STARTING):
            self._starting += 1
            threading.Thread(target=self._start_one, name="sandbox start", daemon=True).start()

    def _start_one(self) -> None:
        started_at = time.monotonic()
        try:
            started = self._start()
        except Exception as error:  # noqa: BLE001 - every error must reach the waiting callers
            with self._lock:
                self._starting -= 1
                self._failed_starts += 1
                failed = [future for future in self._waiting if future.set_running_or_notify_cancel()]
                self._waiting.clear()
            for future in failed:
                future.set_exception(error)
            return
        with self._lock:
            self._starting -= 1
            self._starts += 1
            self._start_durations.add(time.monotonic() - started_at)
            # Under the same lock, so that no caller sees neither the start nor its item, and begins another start.
            is_kept = self._keep(started)
        if not is_kept:
            self._kill(started)

    def _keep(self, item: Any) -> bool:
        """Hand an unused item to the first waiting caller, else keep it; ``False``: it must be ended."""
        while self._waiting:
            future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                future.set_result(item)
                self._fill()
                return True
        if len(self._idle) < self._size and not self._is_closed:
            self._idle.append((time.monotonic(), item))
            self._watch()
            return True
        return False

    def _watch(self) -> None:
        if self._timer is None and self._idle:
            left_s = self._idle[0][0] + self._idle_s - time.monotonic()
            self._timer = threading.Timer(max(0.0, left_s), self._end_idle)
            self._timer.daemon = True
            self._timer.start()

    def _end_idle(self) -> None:
        ended = []
        with self._lock:
            self._timer = None
            limit = time.monotonic() - self._idle_s
            while self._idle and self._idle[0][0] <= limit:
                ended.append(self._idle.popleft()[1])
            self._watch()
        for item in ended:
            self._kill(item)


def warm_size() -> int:
    """Return the number of sandboxes to keep ready, from the environment of the port.

    Raises:
        OperationError: Of kind ``input``: ``DSPEX_WARM_SANDBOXES`` is not an integer from 0 to 16.
    """
    text = os.environ.get("DSPEX_WARM_SANDBOXES", str(DEFAULT_WARM))
    if not (text.isascii() and text.isdecimal()) or len(text) > 2 or int(text) > _MAX_WARM:
        raise OperationError(
            "input",
            f"expected an integer from 0 to {_MAX_WARM} in the environment at DSPEX_WARM_SANDBOXES, got {quoted(text)}",
        )
    return int(text)
