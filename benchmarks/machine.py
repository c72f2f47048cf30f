"""Say on what machine a benchmark has run, and choose the cores that processes may use."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def description() -> str:
    """Return one line: the cores and what they share, the system, the versions, and the load before the run."""
    parts = [f"{len(cores())} cores{_model()}{_last_cache()}", f"{platform.system()} {platform.release()}"]
    parts.append(f"Python {platform.python_version()}")
    if sys.platform != "win32":
        parts.append(f"load {os.getloadavg()[0]:.2f} before the run")
    return f"Measured on {', '.join(parts)}."


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _model() -> str:
    information = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*: (.+)$", information, re.M)
    is_virtual = re.search(r"^flags\s*:.*\bhypervisor\b", information, re.M)
    named = ([model[1]] if model else []) + (["virtual"] if is_virtual else [])
    return f" ({', '.join(named)})" if named else ""


def _last_cache() -> str:
    """Return which cores share the last cache of the first core: where they do not, each call crosses memory."""
    shared = list(_shared_caches(cores()[0]))
    if not shared:
        return ""
    level, with_cores = max(shared)
    return f", L{level} shared by cores {with_cores}" if with_cores != str(cores()[0]) else f", L{level} for each core"


def _shared_caches(core: int) -> Iterator[tuple[int, str]]:
    for folder in sorted((_CPUS / f"cpu{core}" / "cache").glob("index*")):
        level, with_cores = _read(folder / "level").strip(), _read(folder / "shared_cpu_list").strip()
        if level and with_cores:
            yield int(level), with_cores


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
