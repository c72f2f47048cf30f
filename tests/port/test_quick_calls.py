"""Test the fast path for quick calls of harmless functions: it gives the same answers as the slow path."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erlport_bridge.term import PACKET_SIZES, Atom, encode
from tests.port_process import PortProcess

USER_MODULE = """
import contextvars, sys, time

def harmless(function):
    function.is_harmless = True
    return function

@harmless
def same(value):
    return value

@harmless
def repeated(text, count):
    return text * count

@harmless
def fails(text):
    raise ValueError(text)

@harmless
def leaves():
    sys.exit(3)

@harmless
def unencodable():
    return {"deep": [object()]}

@harmless
def told(text):
    raise ValueError(text)

told.failure_term = lambda error, lost: (str(error), 1)

variable = contextvars.ContextVar("variable", default="nothing")

@harmless
def seen_then_set():
    seen = variable.get()
    variable.set("something")
    return seen

def remove(name):
    del globals()[name]

def __getattr__(name):
    raise (RuntimeError if name == "same" else AttributeError)(f"no {name} any more")

def replace():
    def same(value):
        return ["another one", value]
    globals()["same"] = harmless(same)

async def awaited(value):
    return value

calls = []

@harmless
def counted(number):
    calls.append(number)
    return number

@harmless
def counts():
    return calls

class Slow(type(sys)):
    def __getattribute__(self, name):
        if name == "counted":
            time.sleep(0.01)
        return super().__getattribute__(name)

def slow():
    sys.modules[__name__].__class__ = Slow
"""
PROOFS = 5
LAST = 2**31
CALLS: dict[str, list[Any]] = {
    "same": [1],
    "repeated": ["x", 2],
    "fails": ["no"],
    "unencodable": [],
    "told": ["no"],
    "seen_then_set": [],
    "leaves": [],
}


def proven(port: PortProcess) -> PortProcess:
    """Call all functions until they count as quick, so that the fast path runs them; return the port."""
    for _ in range(PROOFS):
        for name, arguments in CALLS.items():
            port.call("user_module", name, *arguments)
    return port


@pytest.fixture
def environment(tmp_path: Path, implementation: dict[str, str]) -> dict[str, str]:
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    return {"PYTHONPATH": str(tmp_path), **implementation}


@pytest.fixture
def port(environment: dict[str, str]) -> Iterator[PortProcess]:
    with PortProcess(environment=environment) as port:
        yield proven(port)


@pytest.mark.parametrize("packet", PACKET_SIZES)
@pytest.mark.parametrize("flags", [[], ["--compressed=6"]])
def test_every_outcome_is_an_answer(packet: int, flags: list[str], environment: dict[str, str]) -> None:
    with PortProcess(flags, packet=packet, environment=environment) as port:
        proven(port)
        for _ in range(3):
            assert port.call("user_module", "same", {"a": [1, None]})[2] == {"a": [1, None]}
            assert port.call("user_module", "told", "as told")[2] == ("as told", 1)
            for name, kind, text in [
                ("fails", "builtins.ValueError", "no"),
                ("leaves", "builtins.SystemExit", "3"),
                ("unencodable", "erlport_bridge.errors.EncodeError", '["deep"][0]'),
            ]:
                tag, _, (language, found, message, lines) = port.call("user_module", name, *CALLS[name])
                assert (tag, language, found) == ("e", "python", kind)
                assert text in message
                assert isinstance(lines, list)
            assert port.call("user_module", "same")[2][1] == "builtins.TypeError"


def test_answers_of_every_size_are_whole(port: PortProcess) -> None:
    sizes = [1_000, 0, 65_536, 1_023, 3_000_000, 1, 1_024, 900, 100_000, 1_025, 5_000, 65_535]
    for size in sizes:
        assert port.call("user_module", "repeated", "x", size)[2] == "x" * size
    ids = port.send_calls([("user_module", "repeated", ["x", size]) for size in sizes])
    answers = {message[1]: message[2] for message in (port.receive() for _ in sizes)}
    assert [len(answers[call_id]) for call_id in ids] == sizes


def test_calls_do_not_see_the_context_of_others(port: PortProcess) -> None:
    assert {port.call("user_module", "seen_then_set")[2] for _ in range(50)} == {"nothing"}


def test_a_function_that_is_replaced_is_called_no_more(port: PortProcess) -> None:
    assert port.call("user_module", "same", 1)[2] == 1
    port.call("user_module", "replace")
    for _ in range(2 * PROOFS):
        assert port.call("user_module", "same", 1)[2] == ["another one", 1]


def test_a_function_that_is_gone_is_an_error_of_its_call_whatever_its_module_says(port: PortProcess) -> None:
    port.call("user_module", "remove", "same")
    for _ in range(2):
        assert port.call("user_module", "same", 1)[2][1:3] == (Atom("builtins.RuntimeError"), "no same any more")
    assert port.call("user_module", "repeated", "x", 2)[2] == "xx"


def test_unread_answers_are_queued_and_none_is_lost(port: PortProcess) -> None:
    # The answers exceed the pipe's capacity, so that the first ones fill it.
    calls = [("user_module", "repeated", ["x", 500]) for _ in range(5_000)]
    ids = port.send_calls(calls)
    assert sorted(port.receive()[:2] for _ in ids) == [("r", call_id) for call_id in ids]
    assert port.call("user_module", "same", 1)[2] == 1


def test_calls_between_which_another_thread_becomes_the_leader_are_made_once(port: PortProcess) -> None:
    """On a busy machine a call that came just then was made by both threads, and answered twice."""
    for number in range(PROOFS):
        port.call("user_module", "counted", -number)
    # While the next call is looked up, the one before it counts as running for long.
    port.call("user_module", "slow")
    ids = port.send_calls([("user_module", "counted", [number]) for number in range(20)])
    assert sorted(port.receive()[1:] for _ in ids) == [(call_id, number) for number, call_id in enumerate(ids)]
    assert sorted(port.call("user_module", "counts")[2][PROOFS:]) == list(range(20))


def test_a_reader_that_is_gone_ends_the_process(port: PortProcess) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), port.read_end)
    port.send_call("user_module", "same", [1])
    assert port.process.wait(timeout=10) == 0


def test_a_heartbeat_is_no_call_in_either_form_of_its_id(port: PortProcess) -> None:
    # The id is not 1, because 1 is equal to the heartbeat's answer.
    arguments = encode((Atom("user_module"), Atom("same"), ["x"]))[3:]
    for heartbeat in (b"\x61\0", b"\x62\0\0\0\0"):
        port.send_message(b"\x83\x68\5\x77\1C" + heartbeat + arguments)
        assert port.receive() == (Atom("r"), 0, True)
    for number, call_id in ((7, b"\x61\7"), (7, b"\x62\0\0\0\7"), (-1, b"\x62\xff\xff\xff\xff"), (7, b"\x6e\1\0\7")):
        port.send_message(b"\x83\x68\5\x77\1C" + call_id + arguments)
        assert port.receive() == (Atom("r"), number, "x")


def test_a_message_of_another_name_is_no_call(port: PortProcess) -> None:
    arguments = encode((Atom("user_module"), Atom("same"), [1]))[3:]
    for name in (b"\x77\4abcC", b"\x77\5abc\1C", b"\x76\0\4ab\1C", b"\x77\1c", b"\x77\0"):
        port.send_message(b"\x83\x68\5" + name + b"\x61\7" + arguments)
        assert port.call("user_module", "same", 2)[2] == 2
    port.close()
    assert port.stderr_text().count("expected a call or a message") == 5


def _atom(text: str, form: int) -> bytes:
    """Write an atom in one of its four forms."""
    data = text.encode()
    return bytes([form]) + (bytes([len(data)]) if form in (115, 119) else len(data).to_bytes(2, "big")) + data


FORMS = st.sampled_from([100, 115, 118, 119])
NAMES = st.sampled_from([*CALLS, "awaited", "no_such_function"])
NO_ARGUMENTS = st.sampled_from([None, (), (1,), {}, {1: 2}, "x", 5, Atom("x")])
VALUES = st.lists(st.none() | st.integers(-(2**40), 2**40) | st.text(max_size=5) | st.binary(max_size=5), max_size=3)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Return the frame of a call, whole or with some bytes changed or missing."""
    head = b"\x83\x68\5" + _atom("C", draw(FORMS)) + encode(draw(st.integers(1, 300)))[1:]
    names = _atom("user_module", draw(FORMS)) + _atom(draw(NAMES), draw(FORMS))
    frame = bytearray(head + names + encode(draw(VALUES | NO_ARGUMENTS))[1:])
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    return bytes(frame[: draw(st.sampled_from([len(frame), len(frame), draw(st.integers(0, len(frame)))]))])


def test_any_frame_has_the_same_answers_with_and_without_the_compiled_part(tmp_path: Path) -> None:
    pytest.importorskip("erlport_bridge.port.native", reason="installed without a C compiler")
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    environments = [{"PYTHONPATH": str(tmp_path), "ERLPORT_BRIDGE_CODEC": name} for name in ("compiled", "pure")]
    # The fast path does not handle an id in this form.
    last = encode((Atom("C"), LAST, Atom("user_module"), Atom("same"), []))

    def come(port: PortProcess) -> list[Any]:
        """Return the answers so far; others may be on their way."""
        port.send_message(last)
        found = []
        while (message := port.receive())[1] != LAST:
            # Tracebacks differ between the fast and the slow path.
            found.append((*message[:2], message[2][1:3] if message[0] == "e" else message[2]))
        return found

    with PortProcess(environment=environments[0]) as compiled, PortProcess(environment=environments[1]) as pure:
        ports = (proven(compiled), proven(pure))

        @settings(max_examples=300)
        @given(st.lists(frames(), min_size=1, max_size=5))
        def are_the_same(sent: list[bytes]) -> None:
            answers: tuple[list[Any], list[Any]] = ([], [])
            for port in ports:
                for frame in sent:
                    port.send_message(frame)
            ends_at = time.monotonic() + 20
            while True:
                for port, found in zip(ports, answers, strict=True):
                    found += come(port)
                    found.sort(key=repr)
                if answers[0] == answers[1] or time.monotonic() > ends_at:
                    break
            assert answers[0] == answers[1]

        are_the_same()
