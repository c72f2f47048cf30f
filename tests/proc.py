"""Look at processes: by ``/proc`` on Linux; elsewhere by ``ps``, or the test is skipped."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

HAS_PROC = Path("/proc/self/stat").exists()
#: Marks a test whose port reads ``/proc`` itself.
NEEDS_PROC = pytest.mark.skipif(not HAS_PROC, reason="the system has no /proc")


def proc(path: str) -> Path:
    """Return a path below ``/proc``; skip the running test where there is none, as on macOS."""
    if not HAS_PROC:
        pytest.skip("the system has no /proc")
    return Path("/proc", path)


def stat_fields(pid: int) -> list[str]:
    """Return the fields of a process's ``stat``, from its state on."""
    # The name in parentheses before them may hold any character.
    return proc(f"{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_ticks(pid: int) -> int:
    """Return the CPU time of a process, in clock ticks."""
    user, system = stat_fields(pid)[11:13]
    return int(user) + int(system)


def is_runnable(pid: int) -> bool:
    """Return whether a thread of the process runs, or waits for a processor."""
    return any(stat_fields(int(task.name))[0] == "R" for task in proc(f"{pid}/task").iterdir())


def members(group: int) -> list[int]:
    """Return the processes of a group, without zombies."""
    return sorted(pid for pid, _, its_group, state in _processes() if its_group == group and state != "Z")


def children(parent: int) -> list[int]:
    """Return the processes that a process has started, without zombies."""
    return sorted(pid for pid, its_parent, _, state in _processes() if its_parent == parent and state != "Z")


def _processes() -> list[tuple[int, int, int, str]]:
    """Return the id, the parent, the group and the state of each process."""
    if not HAS_PROC:
        command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="]
        listed = subprocess.run(command, check=True, capture_output=True, text=True)
        rows = (line.split() for line in listed.stdout.splitlines())
        return [(int(pid), int(parent), int(group), state[0]) for pid, parent, group, state in rows]
    found = []
    for folder in Path("/proc").iterdir():
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            if folder.name.isdigit():
                state, parent, group = stat_fields(int(folder.name))[:3]
                found.append((int(folder.name), int(parent), int(group), state))
    return found
