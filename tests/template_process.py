"""Run the template process of a pool, and start workers through it, as the Elixir side does."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.deadlines import Busyness
from tests.port_process import PortProcess
from tests.proc import proc

ROOT = Path(__file__).parents[1]
LAUNCHER = ROOT / "mix_stub/lib/dspex/python/port/launcher.py"
RUNTIME = "import erlport_bridge.__main__ as program; __file__ = program.__file__; program.main()"


def python_path(folder: Path) -> str:
    """Return a ``PYTHONPATH`` with a folder and this repository, which may not be the current folder."""
    return os.pathsep.join(map(str, (folder, ROOT, ROOT / "priv" / "python")))


class TemplateProcess:
    """A template process behind a port; a context manager that ends it.

    Args:
        flags: Its flags.
        environment: Variables added to this process's environment, for it and its workers.
    """

    def __init__(self, flags: Sequence[str] = ("--modules=dspy_bridge",), environment: dict[str, str] | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="dspex-"))
        self.socket = self.folder / "socket"
        self.flags = flags
        # pytest changes this variable from the setup of a test to its call.
        self.environment = {"PYTEST_CURRENT_TEST": "", **(environment or {})}
        command = [sys.executable, "-c", RUNTIME]
        self.port = PortProcess([f"--template={self.folder}", *flags], command=command, environment=self.environment)
        self.pid = self.port.process.pid

    def __enter__(self) -> TemplateProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.port.__exit__(kind, error, traceback)
        shutil.rmtree(self.folder, ignore_errors=True)

    def worker(
        self, flags: Sequence[str] = (), *, environment: dict[str, str] | None = None, timeout_ms: int = 60_000
    ) -> Worker:
        """Start a worker with the template's flags and these."""
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER.read_text(), str(self.socket), str(timeout_ms)]
        command = [*launcher, sys.executable, "-c", RUNTIME]
        variables = {**self.environment, **(environment or {})}
        return Worker([*self.flags, *flags], command=command, environment=variables)


class Worker(PortProcess):
    """The Erlang side of the port of a worker, whose program is the launcher."""

    def call(self, module: str, function: str, *arguments: Any) -> Any:
        """Call a function as the base class does, and drop the log entries that come before its answer."""
        call_id = self.send_call(module, function, arguments)
        while (answer := self.receive())[0] == "L":
            pass
        assert answer[1] == call_id, answer
        return answer

    @property
    def launcher(self) -> int:
        """Return the process id of the launcher; that of Python itself if it was started directly."""
        return self.process.pid

    def python(self) -> int:
        """Return the process id of Python, once it answers."""
        return int(self.call("os", "getpid")[2])

    def is_forked(self) -> bool:
        """Return whether a template process has forked Python."""
        return self.python() != self.launcher


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return proc(f"{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_ended(pids: Sequence[int]) -> None:
    """Wait until processes have ended, within a second on a machine that is not busy."""
    with Busyness() as busyness:
        began_at = time.monotonic()
        while left := [pid for pid in pids if is_alive(pid)]:
            assert time.monotonic() < began_at + 60, f"processes are left: {left}"
            time.sleep(0.01)
        took_s = time.monotonic() - began_at
    assert took_s < busyness.factor


def open_descriptors(pid: int) -> dict[int, str]:
    """Return what the descriptors of a process lead to; pipes, sockets and deleted files without their numbers."""
    found = {}
    for place in proc(f"{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            leads_to = os.readlink(place)
            found[int(place.name)] = "a file" if leads_to.endswith(" (deleted)") else leads_to.partition(":[")[0]
    return found
