"""Sandboxes that are started before a call needs them, since a start takes seconds.

Each runs the programs of one call and is ended with it: no program ever sees what another one left. What is kept are
only those that have run nothing yet.
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

#: How many sandboxes wait for the next calls, unless ``DSPEX_WARM_SANDBOXES`` says otherwise; each takes about 170 MB.
DEFAULT_WARM: Final = 1
_MAX_WARM: Final = 16
# One that no call has taken for so long is ended, and the next call starts its own.
_IDLE_S: Final = 300.0
# A start keeps a core busy for two seconds; more at once only delay each other.
_MAX_STARTING: Final = max(2, os.cpu_count() or 2)


class WarmPool:
    """Started things of one kind: ``start`` makes one, which ``kill`` ends.

    Args:
        start: Makes one; slow, called in a thread of its own.
        kill: Ends one that nobody uses.
        size: How many are kept ready for later.
        idle_s: How long one is kept.
    """

    def __init__(
        self, start: Callable[[], Any], kill: Callable[[Any], None], *, size: int, idle_s: float = _IDLE_S
    ) -> None:
        self._start = start
        self._kill = kill
        self._size = size
        self._idle_s = idle_s
        # Guards all below; never held while something is started or killed.
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, Any]] = deque()
        self._waiting: deque[Future[Any]] = deque()
        self._starting = 0
        self._failed_starts = 0
        # Of those that have worked.
        self._starts = 0
        self._start_durations = Durations()
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def take(self) -> Future[Any]:
        """Give one that is ready, or will be; whoever does not need it any more cancels the future or gives it back."""
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
        """Take back one that has run nothing."""
        self._keep(unused)

    def report(self) -> dict[str, Any]:
        """Give how many are ``ready`` and ``starting``, how many ``starts`` worked and failed, and what they took."""
        with self._lock:
            return {
                "ready": len(self._idle),
                "starting": self._starting,
                "starts": self._starts,
                "failed_starts": self._failed_starts,
                "start_ms": self._start_durations.report(),
            }

    def close(self) -> None:
        """End all that are ready, and start none any more."""
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
        # For those who wait first; what is kept for later must not delay them.
        waiting = sum(not future.cancelled() for future in self._waiting)
        wanted = waiting if waiting else self._size - len(self._idle)
        while not self._is_closed and self._starting < min(wanted, _MAX_STARTING):
            self._starting += 1
            threading.Thread(target=self._start_one, name="sandbox start", daemon=True).start()

    def _start_one(self) -> None:
        started_at = time.monotonic()
        try:
            started = self._start()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
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
        self._keep(started)

    def _keep(self, item: Any) -> None:
        """Give an unused one to who waits for it, or keep it, or end it."""
        with self._lock:
            while self._waiting:
                future = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_result(item)
                    self._fill()
                    return
            if len(self._idle) < self._size and not self._is_closed:
                self._idle.append((time.monotonic(), item))
                self._watch()
                return
        self._kill(item)

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
    """Give how many sandboxes are to be kept ready, from the environment of the port.

    Raises:
        OperationError: Of kind ``input``: ``DSPEX_WARM_SANDBOXES`` is no number from 0 to 16.
    """
    text = os.environ.get("DSPEX_WARM_SANDBOXES", str(DEFAULT_WARM))
    if not text.isdecimal() or int(text) > _MAX_WARM:
        raise OperationError(
            "input",
            f"expected an integer from 0 to {_MAX_WARM} in the environment at DSPEX_WARM_SANDBOXES, got {quoted(text)}",
        )
    return int(text)
