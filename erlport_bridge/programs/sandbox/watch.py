"""Watch the process of a sandbox while code runs in it, and kill it when it takes too much.

WebAssembly's memory has a limit of its own, but code can also take memory of JavaScript, outside of that limit. So the
process as a whole is watched: the memory that is resident, the memory that is reserved, its threads, and what it
writes to its error output. A process of Deno starts no other process, so it is all there is.

Without ``/proc`` (macOS) only the error output is watched.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, Final, NamedTuple

_MIB: Final = 1024 * 1024
#: The most memory of a sandbox, with the 150 to 190 MB of Deno and Pyodide.
MAX_MEMORY_MIB: Final = 512
# Address space that is reserved but not used is no memory, and V8 reserves much. Beyond this, it is meant to be used.
_MAX_MORE_RESERVED: Final = 1024 * _MIB
# Enforced by the kernel: what can be reserved between two looks.
_MAX_MORE_DATA: Final = 1536 * _MIB
# Deno's thread pools start some threads when they are needed.
_MAX_MORE_THREADS: Final = 12
_INTERVAL_MS: Final = 10

_MAX_TOLD: Final = 500
_MAX_STDERR_BYTES: Final = _MIB
_CHUNK_BYTES: Final = 65_536
_KEPT_STDERR_BYTES: Final = 2_000
_END_TIMEOUT_S: Final = 5.0

# Ends a program in an endless loop whose Python process was killed before it could kill the program. Needed under
# ErlPort's own Python half, which has no lifeline (`port/lifeline.py`).
_MAX_CPU_SECONDS: Final = 900


class _Usage(NamedTuple):
    """What a process uses: bytes of resident memory, bytes of reserved data, and threads."""

    resident: int
    reserved: int
    threads: int


class Watch:
    """The watch of one sandbox, which keeps the end of its error output too.

    Args:
        pid: The process.
        stderr: Its error output, which the watch closes.
        kill: Kills the process for a reason, the end of a sentence about the code.
    """

    def __init__(self, pid: int, stderr: BinaryIO, kill: Callable[[str], None]) -> None:
        self._pid = pid
        self._pipe = stderr
        self._kill = kill
        self._stderr = b""
        self._written = 0
        self._at_start: _Usage | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox watch", daemon=True)

    def set_limits(self) -> None:
        """Record what the ready process uses before it runs code, and set the limits of the kernel."""
        self._at_start = _usage(self._pid)
        _limit(self._pid, self._at_start)

    def begin(self) -> None:
        """Start to watch; does nothing if it has begun."""
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        """Read what is left, after the process has ended."""
        self.begin()
        self._thread.join(_END_TIMEOUT_S)

    def stderr_sentence(self) -> str:
        """Return the end of what the process wrote to its error output as one line, without JavaScript's traceback."""
        lines = self._stderr.decode(errors="replace").splitlines()
        told = " ".join(line.strip() for line in lines if line.strip() and not line.startswith("    at "))
        return told if len(told) <= _MAX_TOLD else told[:_MAX_TOLD] + "…"

    def _run(self) -> None:
        with self._pipe as pipe:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            interval = None if self._at_start is None else _INTERVAL_MS
            while True:
                if poll.poll(interval) and not self._read(pipe.fileno()):
                    return
                reason = self._excess()
                if reason is not None:
                    self._kill(reason)

    def _read(self, descriptor: int) -> bool:
        chunk = os.read(descriptor, _CHUNK_BYTES)
        self._written += len(chunk)
        self._stderr = (self._stderr + chunk)[-_KEPT_STDERR_BYTES:]
        return chunk != b""

    def _excess(self) -> str | None:
        if self._written > _MAX_STDERR_BYTES:
            return f"wrote more than {_MAX_STDERR_BYTES} bytes to its error output"
        usage = None if self._at_start is None else _usage(self._pid)
        if usage is None or self._at_start is None:
            return None
        more_reserved = usage.reserved - self._at_start.reserved
        if usage.resident > MAX_MEMORY_MIB * _MIB or more_reserved > _MAX_MORE_RESERVED:
            return f"took more than {MAX_MEMORY_MIB} MiB of memory"
        if usage.threads > self._at_start.threads + _MAX_MORE_THREADS:
            return "started threads"
        return None


def _usage(pid: int) -> _Usage | None:
    """Return what a process uses; ``None`` if it has ended, or without ``/proc``."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm, open(f"/proc/{pid}/stat", "rb") as stat:
            pages = statm.read().split()
            # The name of the process, in parentheses, may have spaces.
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return _Usage(int(pages[1]) * page, int(pages[5]) * page, int(fields[17]))


def _limit(pid: int, usage: _Usage | None) -> None:
    """Limit the CPU time and the data of the process, by the kernel."""
    if sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS))
        if usage is not None:
            most = usage.reserved + _MAX_MORE_DATA
            resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
