"""Busy-wait for a moment before a reading thread goes to sleep.

The next message often comes some microseconds after the last answer. A core that has gone to sleep meanwhile takes 20
to 40 microseconds to wake, longer than most calls run. The BEAM's schedulers busy-wait in the same way.
"""

from __future__ import annotations

import os
from typing import Final

from erlport_bridge.port.implementation import native

#: How long to busy-wait: about as long as a core takes to wake. An idle process does not busy-wait.
DURATION_NS: Final = 50_000


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: Whether to busy-wait at all: with one core, the process that is waited for needs this core.
IS_WORTHWHILE: Final = native is not None and _usable_cores() > 1


def wait(descriptor: int) -> None:
    """Busy-wait until the file descriptor is readable, or :data:`DURATION_NS` at most; without the GIL."""
    if native is not None and IS_WORTHWHILE:
        native.wait(descriptor, DURATION_NS)
