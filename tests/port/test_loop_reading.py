"""Test the event loop's thread as the leader: it reads the calls that it runs, until another thread should lead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erlport_bridge.term import Atom, encode
from tests.port_process import PortProcess

USER_MODULE = """
import asyncio, threading, time
from erlport_bridge.port import elixir

opened = threading.Event()

def name():
    return threading.current_thread().name

async def awaited(pause_s=0.0):
    await asyncio.sleep(pause_s)
    return name()

async def asks_elixir():
    return await elixir.call("m", "f", [])

async def blocks_the_loop():
    opened.wait()
    return name()

def harmless():
    return name()

harmless.is_harmless = True

def harmless_as_it_says():
    opened.wait()
    return name()

harmless_as_it_says.is_harmless = True

def fails():
    raise ValueError("as expected")

fails.is_harmless = True

def plain():
    return name()

def runs_a_loop():
    return asyncio.run(awaited())

def waits():
    opened.wait()
    return name()

def set_gate(is_open):
    opened.set() if is_open else opened.clear()

def size(data):
    return len(data)

size.is_harmless = True
"""
LOOP = "loop"
PROOFS = 10


@pytest.fixture
def port(tmp_path: Path, implementation: dict[str, str]) -> Iterator[PortProcess]:
    """Yield a port whose functions count as quick."""
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    with PortProcess(environment={"PYTHONPATH": str(tmp_path), **implementation}) as port:
        for _ in range(PROOFS):
            ask(port, "plain")
            ask(port, "harmless")
            ask(port, "size", b"")
            port.call("user_module", "fails")
            ask(port, "set_gate", True)
        yield port


def ask(port: PortProcess, name: str, *arguments: object) -> object:
    tag, _, answer = port.call("user_module", name, *arguments)
    assert tag == "r", answer
    return answer


def loop_reads(port: PortProcess) -> bool:
    """Try to make the loop's thread the leader, and return whether it is; on a busy machine it may not be."""
    for _ in range(50):
        ask(port, "awaited")
        if ask(port, "harmless") == LOOP:
            return True
    return False


def test_the_loop_reads_on_after_it_was_given_something_to_run(port: PortProcess) -> None:
    assert ask(port, "harmless") != LOOP
    assert loop_reads(port)


def test_an_answer_that_the_loop_reads_itself_wakes_the_task_that_waits_for_it(port: PortProcess) -> None:
    for _ in range(20):
        assert loop_reads(port)
        call_id = port.send_call("user_module", "asks_elixir", [])
        _, elixir_id, *_ = port.receive()
        port.send_message(encode((Atom("r"), elixir_id, "answered")))
        assert port.receive() == (Atom("r"), call_id, "answered")


def test_a_plain_function_never_runs_on_the_loop(port: PortProcess) -> None:
    for _ in range(20):
        assert loop_reads(port)
        assert ask(port, "plain") != LOOP
        # Another thread leads now, and has run the function.
        assert ask(port, "harmless") != LOOP


def test_a_plain_function_may_run_a_loop_of_its_own(port: PortProcess) -> None:
    for _ in range(PROOFS):
        assert loop_reads(port)
        assert isinstance(ask(port, "runs_a_loop"), str)


def test_calls_are_read_while_the_loop_is_blocked(port: PortProcess) -> None:
    for _ in range(10):
        assert loop_reads(port)
        ask(port, "set_gate", False)
        assert loop_reads(port)
        blocking = port.send_call("user_module", "blocks_the_loop", [])
        # The first call may have come together with the blocking one, and be read before that runs.
        assert LOOP not in [ask(port, "harmless") for _ in range(3)][1:]
        # A heartbeat, and then a call that only the loop can run.
        port.send_message(encode((Atom("C"), 0, Atom("any"), Atom("any"), [])))
        assert port.receive() == (Atom("r"), 0, True)
        awaited = port.send_call("user_module", "awaited", [])
        opened = port.send_call("user_module", "set_gate", [True])
        assert {port.receive()[1] for _ in range(3)} == {blocking, awaited, opened}


@pytest.mark.parametrize("is_on_loop", [True, False])
def test_calls_are_read_while_a_function_blocks_that_is_declared_harmless(port: PortProcess, is_on_loop: bool) -> None:
    for _ in range(10):
        for _ in range(PROOFS):
            ask(port, "harmless_as_it_says")
        ask(port, "set_gate", False)
        if is_on_loop:
            assert loop_reads(port)
        waiting = port.send_call("user_module", "harmless_as_it_says", [])
        assert [port.call("user_module", "fails")[0] for _ in range(PROOFS)] == ["e"] * PROOFS
        opened = port.send_call("user_module", "set_gate", [True])
        assert {port.receive()[1] for _ in range(2)} == {waiting, opened}


def test_calls_in_turn_do_not_hold_up_timers(port: PortProcess) -> None:
    assert loop_reads(port)
    awaited = port.send_call("user_module", "awaited", [0.05])
    answered = 0
    while True:
        port.send_call("user_module", "harmless", [])
        answer = port.receive()
        if answer[1] == awaited:
            break
        answered += 1
        assert answered < 100_000
    assert port.receive()[2] in (LOOP, "reader", "MainThread")


def test_a_large_frame_is_read_by_another_thread(port: PortProcess) -> None:
    for size in (60_000, 70_000, 3_000_000):
        assert loop_reads(port)
        assert ask(port, "size", bytes(size)) == size
    assert ask(port, "harmless") != LOOP
    assert loop_reads(port)


NAMES = [
    "harmless",
    "harmless_as_it_says",
    "fails",
    "plain",
    "runs_a_loop",
    "waits",
    "blocks_the_loop",
    "no_such_function",
]
CALLS: list[tuple[str, list[object]]] = [
    *((name, []) for name in NAMES),
    *(("awaited", list[object](pause)) for pause in ([], [0.002])),
    ("size", [bytes(100_000)]),
]
OPENING: tuple[str, list[object]] = ("set_gate", [True])


def test_calls_of_all_kinds_in_any_order_are_answered_once(port: PortProcess) -> None:
    @settings(max_examples=30)
    @given(st.lists(st.sampled_from(CALLS), min_size=1, max_size=60), st.booleans())
    def are_answered(calls: list[tuple[str, list[object]]], in_one_piece: bool) -> None:
        # A closed gate blocks the loop and some threads, but not the call that opens it.
        ask(port, "set_gate", False)
        chosen: list[tuple[str, str, list[object]]] = [("user_module", *call) for call in [*calls, OPENING]]
        ids = port.send_calls(chosen) if in_one_piece else [port.send_call(*call) for call in chosen]
        assert sorted(port.receive()[1] for _ in ids) == list(ids)

    are_answered()


def test_the_process_exits_with_the_port(port: PortProcess) -> None:
    assert loop_reads(port)
    port.close()
    assert port.process.wait(timeout=10) == 0
    assert port.stderr_text() == ""


def test_a_port_that_is_closed_inside_a_frame_is_reported(port: PortProcess) -> None:
    assert loop_reads(port)
    os.write(port.write_end, b"\0\0\0\x09abc")
    port.close()
    assert port.process.wait(timeout=10) == 0
    assert "closed inside a frame" in port.stderr_text()
