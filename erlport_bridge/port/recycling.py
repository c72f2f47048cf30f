"""Ask the port owner for another process, when this one has grown too large, too old, or has served its calls.

The process works on until the other one is ready, and leaves when its calls are answered.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

_INTERVAL_S: Final = 1.0
_MIB: Final = 1024 * 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class RecyclingLimits(NamedTuple):
    """When a process asks to be replaced; ``None``: never for this reason.

    Attributes:
        max_bytes: Resident memory of this process and of its child processes, such as sandboxes.
        max_calls: Answered calls.
        max_age_s: Time since its start.
    """

    max_bytes: int | None = None
    max_calls: int | None = None
    max_age_s: float | None = None


def watch(limits: RecyclingLimits, answered: Callable[[], int], ask: Callable[[str, str], None]) -> None:
    """Look every second whether a limit is exceeded, in a thread, and then call ``ask(kind, reason)`` once.

    Args:
        limits: The limits; without any, no thread is started.
        answered: Returns how many calls this process has answered.
        ask: Takes the reason in one word, and as a sentence.
    """
    if any(limit is not None for limit in limits):
        threading.Thread(target=_watch, args=(limits, answered, ask), name="recycling", daemon=True).start()


def _watch(limits: RecyclingLimits, answered: Callable[[], int], ask: Callable[[str, str], None]) -> None:
    started_at = time.monotonic()
    while (reason := _exceeded(limits, answered(), time.monotonic() - started_at)) is None:
        time.sleep(_INTERVAL_S)
    ask(*reason)


def _exceeded(limits: RecyclingLimits, answered: int, age_s: float) -> tuple[str, str] | None:
    if limits.max_calls is not None and answered >= limits.max_calls:
        return "calls", f"it has answered {answered} calls, max_calls is {limits.max_calls}"
    if limits.max_age_s is not None and age_s >= limits.max_age_s:
        return "age", f"it is {age_s:.1f} s old, max_age is {limits.max_age_s:g} s"
    if limits.max_bytes is not None and (used := resident_bytes()) >= limits.max_bytes:
        most = limits.max_bytes // _MIB
        return "memory", f"it takes {used // _MIB} MiB of memory with its sandboxes, max_memory is {most} MiB"
    return None


def resident_bytes() -> int:
    """Return the resident memory of this process and all processes that it has started; 0 without ``/proc``."""
    total, found = 0, [os.getpid()]
    while found:
        pid = found.pop()
        # A process may end at any moment.
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
                total += int(statm.read().split()[1]) * _PAGE_BYTES
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as children:
                    found += map(int, children.read().split())
    return total
