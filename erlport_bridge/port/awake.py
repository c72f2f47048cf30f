"""Waits awake for a moment before whoever waits goes to sleep.

In a conversation the next message comes some microseconds after the last one was answered. A core that has gone to
sleep meanwhile takes 20 to 40 microseconds to wake, more than most calls. The BEAM's schedulers wait in the same way.
"""

from __future__ import annotations

import os
from typing import Final

from erlport_bridge.port.implementation import native

#: As long as it is worth: about what a core takes to wake. An idle process never waits so.
DURATION_NS: Final = 50_000


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: With one core there is nobody to wait for who does not need it.
IS_WORTHWHILE: Final = native is not None and _usable_cores() > 1


def wait(descriptor: int) -> None:
    """Return as soon as there is something to read, and after a moment at the latest; others run meanwhile."""
    if native is not None and IS_WORTHWHILE:
        native.wait(descriptor, DURATION_NS)
