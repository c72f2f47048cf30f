"""Make calls whose deadline passes at some point, and judge durations, on a busy machine too."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

_LONGEST_MS = 60_000
#: How long Python takes to start on an idle machine.
_START_S = 0.02

_Result = TypeVar("_Result")


def at_deadline(timeout_ms: int, attempt: Callable[[int], _Result], in_time: Callable[[_Result], bool]) -> _Result:
    """Return the result of an attempt that had come to some point when its deadline passed.

    Args:
        timeout_ms: The time of the first attempt. Each further one has twice the time.
        attempt: Makes a call with this timeout.
        in_time: Tells of a result whether the call had come so far.
    """
    while not in_time(result := attempt(timeout_ms)):
        assert timeout_ms <= _LONGEST_MS, f"too late in {timeout_ms} ms: {result}"
        timeout_ms *= 2
    return result


class Busyness:
    """How busy the machine is during a ``with`` block.

    Attributes:
        factor: How much longer Python took to start than on an idle machine, at the worst of the time; at least 1.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Busyness:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            began_at = time.monotonic()
            subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
            self.factor = max(self.factor, (time.monotonic() - began_at) / _START_S)
            if self._ended.wait(_START_S):
                return
