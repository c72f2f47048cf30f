"""Compare a worker that a template process forks with one that is started directly."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import header, readable, row
from erlport_bridge.port.frames import FrameReader, SkippedFrame
from erlport_bridge.term import Atom, decode, encode
from tests.proc import HAS_PROC
from tests.template_process import LAUNCHER, RUNTIME, TemplateProcess

_ROUNDS = 15
_FLAGS = ["--packet=4", "--nouse_stdio", "--modules=dspy_bridge", "--log-to-elixir"]
_PREDICTION = ("execute_module", ["dspy.Predict", "question -> answer", {"question": "Where?"}])


class Port:
    """The Erlang side of the port of a process that has just been started, as ``erl_child_setup`` starts it."""

    def __init__(self, command: list[str]) -> None:
        child_read, self._write_end = os.pipe()
        self._read_end, child_write = os.pipe()
        # Each may have the number of the other's place.
        moved = [(os.POSIX_SPAWN_DUP2, child_read, 103), (os.POSIX_SPAWN_DUP2, child_write, 104)]
        placed = [(os.POSIX_SPAWN_DUP2, 103, 3), (os.POSIX_SPAWN_DUP2, 104, 4)]
        closed = [(os.POSIX_SPAWN_CLOSE, 103), (os.POSIX_SPAWN_CLOSE, 104)]
        self.pid = os.posix_spawn(command[0], command, os.environ, file_actions=[*moved, *placed, *closed], setsid=True)
        os.close(child_read)
        os.close(child_write)
        self._frames = FrameReader(4)

    def operate(self, operation: str, arguments: list[Any]) -> Any:
        """Call an operation, and return its result."""
        os.write(self._write_end, encode((Atom("C"), 1, Atom("dspy_bridge"), Atom(operation), arguments), packet=4))
        while True:
            while (frame := self._frames.take()) is None:
                self._frames.received(os.readv(self._read_end, [self._frames.room()]))
            assert not isinstance(frame, SkippedFrame)
            message = decode(frame)
            if message[0] == "r":
                assert message[2][0] == "ok", message
                return message[2][1]

    def close(self) -> None:
        """Close the port, and wait for the end of the process."""
        os.close(self._write_end)
        os.close(self._read_end)
        os.waitpid(self.pid, 0)


def lines() -> Iterator[str]:
    """Measure starts and memory in turns; yield lines of Markdown."""
    yield "## A worker from the template process\n"
    if not HAS_PROC:
        yield "The system has no /proc, so workers are started directly."
        return
    direct = [sys.executable, "-c", RUNTIME, *_FLAGS]
    with TemplateProcess(["--modules=dspy_bridge"]) as template:
        # The same environment as `posix_spawn` above gives; the fixture of the tests adds a variable.
        os.environ.update(template.environment)
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER.read_text(), str(template.socket), "60000"]
        forked = [*launcher, *direct]
        yield header("start", "forked: middle", "worst", "directly: middle", "worst", "ratio of the middles")
        yield from _times(forked, direct)
        yield ""
        yield header("private memory", "forked", "directly", "ratio")
        for count in (1, 100):
            sizes = [_private_mb(command, count) for command in (forked, direct)]
            cells = [f"{size:.1f} MB" for size in sizes]
            yield row([f"after {count} prediction{'s' * (count > 1)}", *cells, f"{sizes[0] / sizes[1]:.2f}"])
    yield ""
    bare = readable(statistics.median(_seconds_of_a_bare_python() for _ in range(_ROUNDS)))
    yield f"Starting a Python that does nothing (`python -I -S -c ''`), as a launcher must: {bare}."


def _times(forked: list[str], direct: list[str]) -> Iterator[str]:
    ready: dict[str, list[float]] = {"forked": [], "direct": []}
    first: dict[str, list[float]] = {"forked": [], "direct": []}
    _start(forked)  # waits until the template process has imported
    for _ in range(_ROUNDS):
        for name, command in (("forked", forked), ("direct", direct)):
            is_ready, is_answered = _start(command)
            ready[name].append(is_ready)
            first[name].append(is_answered)
    for what, times in (("ready: `ping` answered", ready), ("first prediction answered, embedded model", first)):
        middle = {name: statistics.median(taken) for name, taken in times.items()}
        cells = [cell for name in times for cell in (readable(middle[name]), readable(max(times[name])))]
        yield row([what, *cells, f"{middle['forked'] / middle['direct']:.2f}"])


def _start(command: list[str]) -> tuple[float, float]:
    """Return after which time a new worker has answered `ping`, and after which a first prediction."""
    began_at = time.perf_counter()
    port = Port(command)
    port.operate("ping", [])
    ready = time.perf_counter() - began_at
    port.operate("configure_lm", [Atom("embedded"), {}])
    port.operate(*_PREDICTION)
    answered = time.perf_counter() - began_at
    port.close()
    return ready, answered


def _private_mb(command: list[str], count: int) -> float:
    port = Port(command)
    port.operate("configure_lm", [Atom("embedded"), {}])
    for _ in range(count):
        port.operate(*_PREDICTION)
    rollup = Path(f"/proc/{_python(port)}/smaps_rollup").read_text()
    port.close()
    return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.MULTILINE))) / 1024


def _python(port: Port) -> int:
    """Return the process id of Python: that of the port's program, or of the worker that its pidfd belongs to."""
    if Path(f"/proc/{port.pid}/comm").read_text() != "dspex-launcher\n":
        return port.pid
    found = [re.search(r"^Pid:\s*(\d+)", info.read_text(), re.M) for info in Path(f"/proc/{port.pid}/fdinfo").iterdir()]
    return next(int(match[1]) for match in found if match)


def _seconds_of_a_bare_python() -> float:
    command = [sys.executable, "-I", "-S", "-c", ""]
    began_at = time.perf_counter()
    os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)
    return time.perf_counter() - began_at
