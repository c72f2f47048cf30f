"""Test that Python and its child processes end with the BEAM, with the port, or with Python, however busy they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from erlport_bridge.term import Atom, encode
from tests.deadlines import Busyness
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.proc import cpu_ticks, members, proc

T = TypeVar("T")

BUSY_MODULE = """
import os, pathlib, re, signal, subprocess, sys, threading, time

def has_a_child():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; while true; do :; done"])
    pathlib.Path(os.environ["READY"]).write_text(str(os.getpid()))

def keeps_the_lock():
    has_a_child()
    sum(range(10**13))

def matches_for_ever():
    has_a_child()
    re.match("(a+)+b", "a" * 60)

def sleeps_in_threads():
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(1000,)).start()
    has_a_child()
    time.sleep(1000)

def catches_everything():
    has_a_child()
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

def is_stopped():
    has_a_child()
    os.kill(os.getpid(), signal.SIGSTOP)

def has_pidfd_open():
    return hasattr(os, "pidfd_open")

def waits_for_all_children():
    child = subprocess.Popen(["true"])
    ended = 0
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return ended
        ended += 1
"""

BUSY_WITHOUT_DESCRIPTOR = """
import subprocess
from erlport_bridge.port import lifeline
lifeline._process_descriptor = lambda process: None
lifeline.wait_until_detached(lifeline.start(0))
subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print("ready", flush=True)
sum(range(10**13))
"""

# Python runs this at its start, before the bridge; it simulates a Python that was built without the function.
WITHOUT_PIDFD_OPEN = """
import os
if hasattr(os, "pidfd_open"):
    del os.pidfd_open
"""

FUNCTIONS = ("keeps_the_lock", "matches_for_ever", "sleeps_in_threads", "catches_everything", "is_stopped")

# A BEAM that makes one call.
BEAM = """
[python, frame] = System.argv()
args = ~w(-m erlport_bridge --packet=4 --nouse_stdio)
port = Port.open({:spawn_executable, python}, [:binary, {:packet, 4}, :nouse_stdio, args: args])
Port.command(port, Base.decode16!(frame))
IO.puts(System.pid())
Process.sleep(:infinity)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which ``busy`` can be called; its functions write Python's process id to READY."""
    (tmp_path / "busy.py").write_text(BUSY_MODULE)
    return {"PYTHONPATH": str(tmp_path), "READY": str(tmp_path / "ready")}


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_is_left_of_a_beam_that_is_killed(
    function: str, attempt: int, environment: dict[str, str], tmp_path: Path
) -> None:
    with beam(function, environment, tmp_path) as beam_pid:
        python = wait_until_ready(environment)
        assert len(members(python)) == 4, "python, its two children, and who watches"
        os.kill(beam_pid, signal.SIGKILL)
        assert_all_end(python)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("end", ["close", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_when_the_port_is_closed_or_python_is_told_to_end(
    function: str, end: str, environment: dict[str, str]
) -> None:
    with PortProcess(environment=environment) as port:
        port.send_call("busy", function, [])
        python = wait_until_ready(environment)
        if end == "close":
            port.close()
        else:
            os.kill(python, signal.Signals[end])
            if (function, end) == ("is_stopped", "SIGTERM"):
                # A stopped process gets the signal only when it continues.
                os.kill(python, signal.SIGCONT)
        assert_all_end(python, reap=port.process.wait)
        if end != "close":
            assert port.process.returncode == -signal.Signals[end]


def test_endless_code_in_the_sandbox_ends_with_python(port: PortProcess, model_server: ModelServer) -> None:
    """A Deno in an endless loop once outlived its killed Python: it never noticed that its input was closed."""
    model_server.script("loop", {"fields": {"reasoning": "-", "generated_code": "while True:\n    pass"}})
    options = {"lm": openai(model_server, "scripted:loop")}
    arguments = ["dspy.ProgramOfThought", "question -> answer", {"question": "x"}, options]
    port.send_call("dspy_bridge", "execute_module", arguments)
    # Starting takes less CPU time than that, so Deno runs the program.
    wait_for(lambda: any(cpu_seconds(pid) > 4 for pid in members(port.process.pid) if "deno" in name_of(pid)))
    port.process.kill()
    assert_all_end(port.process.pid, reap=port.process.wait)


@pytest.mark.parametrize("end", ["close", "SIGKILL"])
def test_nothing_is_left_where_there_are_no_descriptors_of_processes(end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY_WITHOUT_DESCRIPTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if end == "close":
        process.stdin.close()
    else:
        process.kill()
    assert_all_end(process.pid, reap=process.communicate if end == "SIGKILL" else process.wait)
    process.stdout.close()


@pytest.mark.parametrize("end", ["close", "SIGKILL"])
def test_nothing_is_left_where_python_was_built_without_pidfd_open(
    end: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PIDFD_OPEN)
    with PortProcess(environment=environment) as port:
        assert port.call("busy", "has_pidfd_open")[2] is False
        port.send_call("busy", "keeps_the_lock", [])
        python = wait_until_ready(environment)
        if end == "close":
            port.close()
        else:
            port.process.kill()
        assert_all_end(python, reap=port.process.wait)


def test_python_that_stays_keeps_its_children_and_its_watch(environment: dict[str, str]) -> None:
    with PortProcess(environment=environment) as port:
        port.call("busy", "has_a_child")
        before = members(port.process.pid)
        assert len(before) == 4
        # Half a frame is no reason to exit: the port is still open.
        port.send_bytes(b"\0")
        with Busyness() as busyness:
            pass
        with pytest.raises(subprocess.TimeoutExpired):
            port.process.wait(busyness.factor)
        assert members(port.process.pid) == before


def test_children_that_user_code_waits_for_are_its_own(environment: dict[str, str]) -> None:
    with PortProcess(environment=environment) as port:
        assert port.call("busy", "waits_for_all_children")[2] == 1


def test_signals_for_the_whole_group_do_not_end_the_watch(environment: dict[str, str]) -> None:
    with PortProcess(environment=environment) as port:
        port.call("busy", "has_a_child")
        python = port.process.pid
        # The same signal as of Ctrl-C in a terminal.
        os.killpg(python, signal.SIGINT)
        assert port.call("math", "sqrt", 16)[2] == 4.0
        # This signal ends Python and one child. The other child ignores it, so only the watch can end it.
        os.killpg(python, signal.SIGTERM)
        assert_all_end(python, reap=port.process.wait)


@contextlib.contextmanager
def beam(function: str, environment: dict[str, str], folder: Path) -> Iterator[int]:
    """Run a BEAM whose port's Python runs a function; yield the BEAM's process id."""
    script = folder / "beam.exs"
    script.write_text(BEAM)
    frame = encode((Atom("C"), 1, Atom("busy"), Atom(function), [])).hex().upper()
    process = subprocess.Popen(
        ["elixir", str(script), sys.executable, frame],  # noqa: S607 - the installed Elixir
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def wait_until_ready(environment: dict[str, str]) -> int:
    ready = Path(environment["READY"])
    # The child that ignores signals must have reported that it does.
    pid = int(wait_for(lambda: ready.exists() and ready.read_text()))
    wait_for(lambda: len(members(pid)) == 4)
    return pid


def assert_all_end(group: int, reap: Callable[[], object] | None = None) -> None:
    """Check that every process of a group ends, within a second on a machine that is not busy."""
    with Busyness() as busyness:
        began_at = time.monotonic()
        if reap is not None:
            reap()
        wait_for(lambda: not members(group))
        took_s = time.monotonic() - began_at
    assert took_s < busyness.factor


def wait_for(condition: Callable[[], T]) -> T:
    """Wait until a condition returns a true value, and return it; the test's timeout ends a vain wait."""
    while not (value := condition()):
        time.sleep(0.01)
    return value


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return proc(f"{pid}/comm").read_text().strip()
    return ""


def cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        return cpu_ticks(pid) / os.sysconf("SC_CLK_TCK")
    return 0.0
