"""Run functions in a thread pool whose work can be interrupted: at its deadline, or when its caller gives up."""

from erlport_bridge.threads.interruption import Interrupted, Work, uninterrupted, wait_for
from erlport_bridge.threads.pool import (
    DEFAULT_MAX_QUEUED,
    DEFAULT_MAX_STUCK,
    DEFAULT_MAX_THREADS,
    Task,
    Threads,
    report,
)
from erlport_bridge.threads.stuck import DEFAULT_LOST_AFTER_S, NoThreadError

__all__ = [
    "DEFAULT_LOST_AFTER_S",
    "DEFAULT_MAX_QUEUED",
    "DEFAULT_MAX_STUCK",
    "DEFAULT_MAX_THREADS",
    "Interrupted",
    "NoThreadError",
    "Task",
    "Threads",
    "Work",
    "report",
    "uninterrupted",
    "wait_for",
]
