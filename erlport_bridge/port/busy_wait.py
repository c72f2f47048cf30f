"""Busy-wait for a moment before a reading thread goes to sleep.

The next message often comes some microseconds after the last answer. A core that has gone to sleep meanwhile takes 20
to 40 microseconds to wake, longer than most calls run. The BEAM's schedulers busy-wait in the same way.
"""

from __future__ import annotations

import os
from typing import Final

from erlport_bridge.port.implementation import native

#: How long to busy-wait at least: about as long as a core takes to wake. An idle process does not busy-wait.
DURATION_NS: Final = 50_000
# At most, after work that took as long: the BEAM was not needed meanwhile, and its cores have gone to sleep.
_MOST_NS: Final = 200_000


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: Whether to busy-wait at all: with one core, the process that is waited for needs this core.
IS_WORTHWHILE: Final = native is not None and _usable_cores() > 1


def wait(descriptor: int, worked_s: float = 0.0) -> None:
    """Busy-wait until the file descriptor is readable, or the time is over that is worth it; without the GIL.

    Args:
        descriptor: The file descriptor.
        worked_s: How long this thread has worked since it last waited, in seconds.
    """
    if native is not None and IS_WORTHWHILE:
        native.wait(descriptor, min(max(DURATION_NS, int(worked_s * 1e9)), _MOST_NS))
