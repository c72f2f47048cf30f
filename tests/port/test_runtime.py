"""Test the process behind a port, on real pipes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erlport_bridge.term import Atom, encode
from tests.port_process import PortProcess
from tests.proc import proc

USER_MODULE = """
import asyncio, os, subprocess, sys, threading

def noisy():
    print("printed")
    os.write(1, b"written to descriptor 1\\n")
    subprocess.run(["sh", "-c", "echo from a child; cat"], check=True)
    return sys.stdin.read()

def raises():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")
    raise Odd

def leaves():
    sys.exit(3)

def unencodable():
    return {"deep": [object()]}

def surrogate():
    return "\\ud800"

def large(count):
    return "x" * count

def descriptors():
    return sorted(int(name) for name in os.listdir("/dev/fd/"))

def inherited():
    return subprocess.run(["ls", "/dev/fd/"], check=True, capture_output=True, text=True).stdout.split()

waiting = threading.Event()

def blocks():
    waiting.wait()

def wakes():
    waiting.set()

async def pauses(seconds):
    await asyncio.sleep(seconds)
    return "rested"

async def task_that_leaves():
    async def leaves_inside():
        sys.exit(5)
    return await asyncio.ensure_future(leaves_inside())

def text_that_leaves():
    class Leaving(Exception):
        def __str__(self):
            raise SystemExit(4)
    raise Leaving

def long_name():
    raise type("L" * 400, (Exception,), {})("no")

def huge_message():
    raise RuntimeError("m" * 10_000_000)

def endless():
    def there(): back()
    def back(): there()
    there()

def itself():
    found = []
    found.append(found)
    return found

def untold():
    raise ValueError("the call's own error")

def _raises_too(error, lost):
    raise SystemExit(1)

untold.failure_term = _raises_too

class Box:
    @staticmethod
    def held():
        return "held"

not_a_function = 5
"""


@pytest.fixture
def user_path(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the module ``user_module`` can be called."""
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("stdio", ["--use_stdio", "--nouse_stdio"])
@pytest.mark.parametrize("packet", [1, 2, 4])
def test_calls_are_answered_under_every_packet_size_and_descriptor(stdio: str, packet: int) -> None:
    with PortProcess([stdio], packet=packet) as port:
        assert port.call("math", "sqrt", 16) == (Atom("r"), 1, 4.0)


def test_flags_of_erlport_are_accepted_after_its_own_module_name() -> None:
    flags = ["-u", "-m", "erlport.cli", "--use_stdio", "--compressed=6", "--buffer_size=65536"]
    with PortProcess(flags) as port:
        assert port.call("operator", "mul", "ab", 10_000)[2] == "ab" * 10_000


@pytest.mark.parametrize("stdio", ["--use_stdio", "--nouse_stdio"])
def test_prints_and_children_never_touch_the_protocol(stdio: str, user_path: dict[str, str]) -> None:
    with PortProcess([stdio], environment=user_path) as port:
        assert port.call("user_module", "noisy") == (Atom("r"), 1, "")
        port.close()
        text = port.stderr_text()
    for line in ("printed", "written to descriptor 1", "from a child"):
        assert line in text


def test_child_processes_inherit_no_end_of_the_protocol(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        own = port.call("user_module", "descriptors")[2]
        assert [number for number in own if number >= 64]
        # `ls` itself opens 3 to read the folder.
        assert set(port.call("user_module", "inherited")[2]) <= {"0", "1", "2", "3"}


def test_slow_call_does_not_delay_fast_call(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        slow = port.send_call("user_module", "blocks", [])
        assert port.call("user_module", "pauses", 0)[2] == "rested"
        fast = port.send_call("user_module", "wakes", [])
        assert {port.receive()[1], port.receive()[1]} == {slow, fast}


def test_many_pauses_at_once_take_about_as_long_as_one(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        port.call("user_module", "pauses", 0)
        started_at = time.monotonic()
        ids = {port.send_call("user_module", "pauses", [0.5]) for _ in range(100)}
        assert {port.receive()[1] for _ in ids} == ids
        assert time.monotonic() - started_at < 0.5 * 10


def test_first_call_of_an_imported_module_needs_no_thread(user_path: dict[str, str], tmp_path: Path) -> None:
    flags = ["--max-threads=1", "--preload=user_module,application"]
    (tmp_path / "application.py").write_text("async def answer():\n    return 42\n")
    with PortProcess(flags, environment=user_path) as port:
        port.send_call("user_module", "blocks", [])
        assert port.call("application", "answer")[2] == 42


def test_reading_does_not_wait_for_an_import_that_has_begun(user_path: dict[str, str], tmp_path: Path) -> None:
    slow = f"""
import os, pathlib, time
pathlib.Path({str(tmp_path / "begun")!r}).touch()
while not os.path.exists({str(tmp_path / "go_on")!r}):
    time.sleep(0.005)
def answer():
    return 42
"""
    (tmp_path / "slow_module.py").write_text(slow)
    with PortProcess(environment=user_path) as port:
        first = port.send_call("slow_module", "answer", [])
        wait_for_file(tmp_path / "begun")
        second = port.send_call("slow_module", "answer", [])
        assert port.call("math", "sqrt", 4.0)[2] == 2.0  # read after the second call
        (tmp_path / "go_on").touch()
        answers = [port.receive() for _ in range(2)]
    assert sorted(answer[1] for answer in answers) == [first, second]
    assert [answer[2] for answer in answers] == [42, 42]


def test_exceptions_are_answers(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        tag, _, (language, kind, message, lines) = port.call("math", "sqrt", -1)
        assert (tag, language, kind) == ("e", "python", "builtins.ValueError")
        assert "domain error" in message or "nonnegative" in message
        assert isinstance(lines, list)
        assert "no text" not in port.call("user_module", "raises")[2][2]
        assert port.call("user_module", "leaves")[2][1] == "builtins.SystemExit"
        assert port.call("no_such_module", "f")[2][1] == "builtins.ModuleNotFoundError"
        assert port.call("math", "no_such_function")[2][1] == "builtins.AttributeError"
        assert "is not a function" in port.call("user_module", "not_a_function")[2][2]
        assert port.call("user_module", "Box.held")[2] == "held"


@pytest.mark.parametrize("packet", [1, 2, 4])
@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("text_that_leaves", "user_module."),
        ("long_name", "user_module.LLLL"),
        ("huge_message", "builtins.RuntimeError"),
        ("endless", "builtins.RecursionError"),
        ("itself", "erlport_bridge.errors.EncodeError"),
        ("untold", "builtins.ValueError"),
        ("task_that_leaves", "builtins.SystemExit"),
    ],
)
def test_every_call_is_answered_once_however_it_fails(
    packet: int, function: str, kind: str, user_path: dict[str, str]
) -> None:
    """Each of these calls once got no answer: some with a length prefix of one byte, some with any."""
    with PortProcess(packet=packet, environment=user_path) as port:
        tag, _, (language, found, _, lines) = port.call("user_module", function)
        assert (tag, language) == ("e", "python")
        assert found.startswith(kind)
        assert len(lines) <= 40
        # The next answer belongs to the next call: the loop still runs, and no answer was sent twice.
        assert port.call("user_module", "pauses", 0)[2] == "rested"


def test_result_that_cannot_be_encoded_is_an_error_with_its_path(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        kind, message = port.call("user_module", "unencodable")[2][1:3]
        assert kind == "erlport_bridge.errors.EncodeError"
        assert '["deep"][0]' in message
        assert "surrogate" in port.call("user_module", "surrogate")[2][2]
        assert port.call("math", "sqrt", 4)[2] == 2.0


@pytest.mark.parametrize(("packet", "largest"), [(1, 200), (2, 60_000)])
def test_answer_that_does_not_fit_its_frame_is_an_error(packet: int, largest: int, user_path: dict[str, str]) -> None:
    with PortProcess(packet=packet, environment=user_path) as port:
        assert "does not fit" in port.call("user_module", "large", 100_000)[2][2]
        assert len(port.call("user_module", "large", largest)[2]) == largest


@pytest.mark.parametrize(
    "frame_bytes",
    [b"", b"\x83", b"not a term", encode(Atom("x")), encode((Atom("Z"), 1)), bytes([131, 108]) + b"\xff" * 4],
    ids=["empty", "version", "text", "atom", "unknown", "lying"],
)
def test_frame_that_is_no_message_is_reported_and_the_port_works_on(frame_bytes: bytes) -> None:
    with PortProcess() as port:
        port.send_message(frame_bytes)
        assert port.call("math", "sqrt", 4)[2] == 2.0
        port.close()
        assert f"dropped a frame of {len(frame_bytes)} bytes" in port.stderr_text()


def test_term_nested_100_000_deep_is_an_error_of_that_call() -> None:
    # {'C', 9, math, sqrt, [[[…]]]} is encoded by hand, since the encoder has a depth limit.
    head = encode((Atom("C"), 9, Atom("math"), Atom("sqrt"), []))[:-1]
    deep = b"\x6c\0\0\0\1" * 100_000 + b"\x6a" + b"\x6a" * 100_000
    with PortProcess() as port:
        port.send_message(head + deep)
        tag, call_id, reason = port.receive()
        assert (tag, call_id) == ("e", 9)
        assert reason[1] == "erlport_bridge.errors.DecodeError"
        assert "deep" in reason[2]
        assert port.call("math", "sqrt", 4)[2] == 2.0


def test_stray_messages_are_ignored() -> None:
    with PortProcess() as port:
        for _ in range(10_000):
            port.send_message(encode((Atom("M"), "stray")))
        assert port.call("math", "sqrt", 4)[2] == 2.0


def test_only_allowed_modules_can_be_called() -> None:
    with PortProcess(["--modules=math,json"]) as port:
        assert "may not be called on this port; allowed: json, math" in port.call("os", "getpid")[2][2]
        assert port.call("math", "sqrt", 4)[2] == 2.0


ONLY_MODULE = """
import pathlib, threading, time

imported_by = threading.current_thread().name
pathlib.Path(__file__).with_suffix(".begun").touch()

def importer():
    return imported_by

"""


def test_the_only_module_is_imported_before_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text(ONLY_MODULE)
    with PortProcess(["--modules=only"], environment={"PYTHONPATH": str(tmp_path)}) as port:
        wait_for_file(tmp_path / "only.begun")
        assert port.call("only", "importer")[2] == "MainThread"


def test_an_only_module_that_cannot_be_imported_is_an_error_of_each_call(tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text("raise SystemExit('not today')\n")
    with PortProcess(["--modules=only"], environment={"PYTHONPATH": str(tmp_path)}) as port:
        for _ in range(2):
            assert port.call("only", "importer")[2][1:3] == (Atom("builtins.SystemExit"), "not today")


def test_a_port_that_is_closed_while_its_only_module_is_imported_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text(ONLY_MODULE + "time.sleep(1_000)\n")
    with PortProcess(["--modules=only"], environment={"PYTHONPATH": str(tmp_path)}) as port:
        wait_for_file(tmp_path / "only.begun")
        port.close()
        assert port.process.wait(timeout=20) == -signal.SIGKILL


def wait_for_file(path: Path) -> None:
    ends_at = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


def test_call_past_the_limit_is_refused_at_once(user_path: dict[str, str]) -> None:
    with PortProcess(["--max-calls=2"], environment=user_path) as port:
        slow = {port.send_call("user_module", "blocks", []) for _ in range(2)}
        refused = port.send_call("user_module", "pauses", [0])
        tag, call_id, reason = port.receive()
        assert (tag, call_id) == ("e", refused)
        assert "2 calls are in flight" in reason[2]
        port.close()
        assert len(slow) == 2


def test_process_exits_when_the_port_is_closed_although_calls_block(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        port.call("user_module", "pauses", 0)
        for _ in range(100):
            port.send_call("user_module", "blocks", [])
        port.close()
        assert port.process.wait(timeout=10) == 0


def test_process_exits_when_the_reading_end_of_its_answers_is_closed(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        port.call("user_module", "pauses", 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), port.read_end)
        port.send_call("user_module", "large", [1 << 20])
        assert port.process.wait(timeout=10) == 0


def test_interrupt_of_the_terminal_is_not_for_this_process(user_path: dict[str, str]) -> None:
    with PortProcess(environment=user_path) as port:
        port.call("user_module", "pauses", 0)
        os.kill(port.process.pid, signal.SIGINT)
        assert port.call("user_module", "pauses", 0)[2] == "rested"


def test_preloaded_module_that_fails_is_named() -> None:
    with PortProcess(["--preload=no_such_module"]) as port:
        assert port.process.wait(timeout=20) == 1
        assert "cannot preload 'no_such_module'" in port.stderr_text()


def test_program_started_by_hand_explains_itself() -> None:
    command = [sys.executable, "-m", "erlport_bridge", "--nouse_stdio"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert "started by a port, not by hand" in ended.stderr


@pytest.mark.parametrize("flags", [["--packet=3"], ["--max-calls=0"], ["--what"], ["--compressed=11"]])
def test_wrong_flags_end_the_process_with_a_message(flags: list[str]) -> None:
    command = [sys.executable, "-m", "erlport_bridge", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert flags[0].split("=")[0] in ended.stderr


def test_threads_wait_less_than_usual_for_the_gil() -> None:
    with PortProcess() as port:
        assert port.call("sys", "getswitchinterval")[2] < sys.getswitchinterval()


def test_a_large_frame_is_not_kept(user_path: dict[str, str]) -> None:
    def memory(pid: int) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", proc(f"{pid}/status").read_text())
        assert found is not None
        return int(found[1]) // 1_024

    with PortProcess(environment=user_path) as port:
        for _ in range(10):
            port.call("user_module", "large", 1)
        before = memory(port.process.pid)
        for size in (64, 1):  # MiB; the second frame shows that the first one's memory has been freed
            assert len(port.call("copy", "copy", b"\xff" * (size << 20))[2]) == size << 20
            ends_at = time.monotonic() + 20
            while memory(port.process.pid) > before + 32:
                assert time.monotonic() < ends_at
                time.sleep(0.01)


@pytest.mark.parametrize("mebibytes", [1, 16, 64])
def test_large_binaries_go_there_and_back(mebibytes: int) -> None:
    payload = os.urandom(1 << 20) * mebibytes
    with PortProcess() as port:
        call_id = port.send_call("copy", "copy", [payload])
        assert port.receive() == (Atom("r"), call_id, payload)
