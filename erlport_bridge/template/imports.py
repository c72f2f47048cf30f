"""Find what an imported module leaves behind that a forked process must not share, and name the module.

A thread exists in the process that started it alone: in a fork it is gone, and a lock that it held stays locked. A
socket, a pipe or a database would be used by several processes at once.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from pathlib import Path
from typing import Final

_DEVICES: Final = {os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)}  # null, zero, full, random, urandom
_TASKS: Final = Path("/proc/self/task")
_DESCRIPTORS: Final = Path("/proc/self/fd")
# How long a thread that has ended may still be listed by the kernel, in seconds: it ends some time after Python's join.
_ENDING: Final = 0.5


class Leftovers:
    """What the modules have left behind that were imported since this was made.

    Attributes:
        reason: Why this process must not be forked, with the name of the first such module; ``None`` if it may.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._threads = set(threading.enumerate())
        self._tasks = count_tasks()
        self._descriptors = descriptors()
        self._children = children()

    def look(self, module: str) -> None:
        """Look for what the import of ``module`` has left behind, if no earlier one has left anything."""
        if self.reason is None and (found := self._found()):
            self.reason = f"importing {module!r} {found}"

    def _found(self) -> str | None:
        started = [thread for thread in threading.enumerate() if thread not in self._threads]
        if started:
            return f"has started the thread {', '.join(map(_described, started))}"
        if count := count_further_tasks(self._tasks):
            return f"has started {count} thread{'s' if count > 1 else ''} in C code"
        for descriptor in sorted(descriptors() - self._descriptors):
            if (what := _shared(descriptor)) is not None:
                return f"has opened {what}"
        if children() - self._children:
            return "has started another process"
        return None


def count_tasks() -> int:
    """Return how many threads this process has, those of C code included."""
    return len(os.listdir(_TASKS))


def count_further_tasks(known: int) -> int:
    """Return how many threads this process has beyond those ``known``, once those that are just ending have ended."""
    deadline = time.monotonic() + _ENDING
    while (further := count_tasks() - known) > 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    return max(further, 0)


def descriptors() -> set[int]:
    """Return the open descriptors of this process."""
    with os.scandir(_DESCRIPTORS) as found:
        numbers = {int(entry.name) for entry in found}
    # Without the one that the listing itself had open.
    return {number for number in numbers if _is_open(number)}


def children() -> set[str]:
    """Return the ids of this process's child processes; empty where the kernel does not list them."""
    try:
        return set((_TASKS / str(os.getpid()) / "children").read_text().split())
    except OSError:
        return set()


def is_read_only_file(descriptor: int) -> bool:
    """Return whether a descriptor is that of a regular file that is only read."""
    return _is_regular(descriptor) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _shared(descriptor: int) -> str | None:
    """Return what a descriptor leads to, if processes must not share it."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode) or (stat.S_ISCHR(status.st_mode) and status.st_rdev in _DEVICES):
        return None
    # Lines that several processes append to a log file do not overwrite each other.
    is_appended = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)
    if _is_regular(descriptor) and (is_appended or is_read_only_file(descriptor)):
        return None
    if stat.S_ISSOCK(status.st_mode):
        return "a socket"
    return os.readlink(_DESCRIPTORS / str(descriptor))


def _described(thread: threading.Thread) -> str:
    target = getattr(thread, "_target", None)
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    return f"{thread.name!r}" + (f" of {module}.{name}" if module and name else "")
