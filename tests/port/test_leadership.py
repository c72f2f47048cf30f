"""Test functions that the leader thread runs itself, until one of them takes long."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.port_process import PortProcess
from tests.proc import NEEDS_PROC

USER_MODULE = """
import contextvars, os, threading

opened = threading.Event()

def where(waits=False):
    if waits:
        opened.wait()
    return threading.current_thread().name

def open_gate():
    opened.set()

def close_gate():
    opened.clear()

def fails(waits=False):
    if waits:
        opened.wait()
    raise ValueError("as expected")

variable = contextvars.ContextVar("variable", default="nothing")

def seen_then_set():
    seen = variable.get()
    variable.set("something")
    return seen

def cpu_ticks():
    fields = open("/proc/self/stat").read().rsplit(")")[-1].split()
    return int(fields[11]) + int(fields[12])
"""
PROOFS = 10
READERS = {"MainThread", "reader"}


@pytest.fixture
def port(tmp_path: Path, implementation: dict[str, str]) -> Iterator[PortProcess]:
    """Yield a port whose functions ``where`` and ``open_gate`` have proved to be quick."""
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    with PortProcess(environment={"PYTHONPATH": str(tmp_path), **implementation}) as port:
        for name in ["where", "open_gate", "close_gate", "fails"] * PROOFS:
            port.call("user_module", name)
        yield port


def ask(port: PortProcess, name: str, *arguments: object) -> object:
    return port.call("user_module", name, *arguments)[2]


def runs_where_it_is_read(port: PortProcess) -> bool:
    """Return whether some of several calls have run in the leader thread; on a busy machine not all do."""
    return any({ask(port, "where") for _ in range(10)} <= READERS for _ in range(50))


def test_quick_function_runs_in_the_leader_thread(port: PortProcess) -> None:
    assert runs_where_it_is_read(port)


def test_calls_do_not_see_the_context_of_others(port: PortProcess) -> None:
    assert runs_where_it_is_read(port)
    assert {ask(port, "seen_then_set") for _ in range(50)} == {"nothing"}


def test_quick_function_that_once_takes_long_delays_no_other_call_and_is_answered(port: PortProcess) -> None:
    for _ in range(10):
        ask(port, "close_gate")
        slow = port.send_call("user_module", "where", [True])
        # The new leader runs these calls, while the former leader is still in the slow call.
        assert [port.call("user_module", "fails")[0] for _ in range(PROOFS)] == ["e"] * PROOFS
        assert port.send_call("user_module", "open_gate", []) > slow
        assert {port.receive()[1], port.receive()[1]} == {slow, slow + PROOFS + 1}
        for _ in range(PROOFS):
            ask(port, "where")  # makes the function count as quick again


def test_function_that_takes_long_runs_in_a_thread_of_its_own_until_it_is_quick_again(port: PortProcess) -> None:
    ask(port, "close_gate")
    slow = {port.send_call("user_module", "where", [True]) for _ in range(5)}
    ask(port, "open_gate")
    threads = {port.receive()[2] for _ in slow}
    assert len(threads - READERS) >= len(slow) - 1  # the leader may have run the first call
    assert runs_where_it_is_read(port)


def test_failure_that_comes_late_is_answered_once(port: PortProcess) -> None:
    ask(port, "close_gate")
    late = port.send_call("user_module", "fails", [True])
    assert isinstance(ask(port, "where"), str)
    opened = port.send_call("user_module", "open_gate", [])
    answers = {message[1]: message[0] for message in (port.receive(), port.receive())}
    assert answers == {late: "e", opened: "r"}
    assert isinstance(ask(port, "where"), str)


def test_calls_read_in_one_piece_are_all_answered_when_the_first_takes_long(port: PortProcess) -> None:
    ask(port, "close_gate")
    ids = [port.send_call("user_module", "where", [number == 0]) for number in range(200)]
    opened = port.send_call("user_module", "open_gate", [])
    assert sorted(port.receive()[1] for _ in range(201)) == [*ids, opened]


def test_process_exits_with_the_port_while_a_former_leader_is_busy(port: PortProcess) -> None:
    ask(port, "close_gate")
    port.send_call("user_module", "where", [True])
    assert isinstance(ask(port, "fails"), tuple)
    port.close()
    assert port.process.wait(timeout=10) == 0


def test_signals_are_still_handled_when_the_main_thread_reads_no_more(port: PortProcess) -> None:
    ask(port, "close_gate")
    slow = port.send_call("user_module", "where", [True])
    assert isinstance(ask(port, "fails"), tuple)
    os.kill(port.process.pid, signal.SIGINT)
    opened = port.send_call("user_module", "open_gate", [])
    assert {port.receive()[1], port.receive()[1]} == {slow, opened}
    os.kill(port.process.pid, signal.SIGINT)
    assert isinstance(ask(port, "where"), str)


@NEEDS_PROC
def test_idle_process_watches_nothing(port: PortProcess) -> None:
    def ticks() -> int:
        used = ask(port, "cpu_ticks")
        assert isinstance(used, int)
        return used

    ticks()
    time.sleep(0.5)  # the watch stops when nothing has run for a while
    before = ticks()
    time.sleep(1.5)
    # A tick is a hundredth of a second. A watch that went on would wake 750 times.
    assert ticks() - before <= 3


@pytest.fixture
def turns() -> Any:
    """Return what the compiled part watches; without it there is nothing to test."""
    return pytest.importorskip("erlport_bridge.port.native").Turns()


TICK_S = 0.05


def watched(turns: Any, quiet_ticks: int = 1_000) -> Future[int]:
    found: Future[int] = Future()
    threading.Thread(target=lambda: found.set_result(turns.overrun(TICK_S, quiet_ticks)), daemon=True).start()
    return found


def test_a_turn_that_runs_for_a_whole_tick_is_overdue(turns: Any) -> None:
    found = watched(turns)
    turns.begin()
    number = found.result(60)
    assert number
    assert turns.runs(number)
    turns.end()
    assert not turns.runs(number)
    turns.begin()
    assert not turns.runs(number)


def test_short_turns_are_never_overdue_however_many_there_are(turns: Any) -> None:
    found = watched(turns)
    ends_at = time.monotonic() + 10 * TICK_S
    while time.monotonic() < ends_at:
        turns.begin()
        turns.end()
    assert not found.done()
    turns.begin()
    assert found.result(60)


def test_the_watch_ends_when_nothing_has_run_for_some_time(turns: Any) -> None:
    assert watched(turns, 3).result(60) == 0


def test_a_turn_is_another_one_after_the_next_begin(turns: Any) -> None:
    """Also if the first one was never ended, as when another thread leads since."""
    turns.begin()
    number = watched(turns).result(60)
    turns.begin()
    assert not turns.runs(number)
    assert watched(turns).result(60) > number
