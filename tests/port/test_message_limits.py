"""Test that a message which is too large, or for which there is no memory, is the error of its own call."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.limits import MIN_MESSAGE_BYTES
from erlport_bridge.term import Atom, encode
from tests.port_process import PortProcess

LIMIT = 200_000
MIB = 1024 * 1024
_ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process is set by prlimit")


def payload_of_call(size: int) -> str:
    """Return a text with which a call of ``ping`` is a message of ``size`` bytes, with an id of one byte."""
    empty = encode((Atom("C"), 1, Atom("dspy_bridge"), Atom("ping"), [""]))
    return "x" * (size - len(empty))


@pytest.mark.parametrize("limit", [LIMIT, MIN_MESSAGE_BYTES])
def test_request_just_below_the_limit_is_answered_and_just_above_refused(limit: int) -> None:
    with PortProcess([f"--max-request-bytes={limit}"]) as port:
        assert port.done("ping", payload_of_call(limit))["payload"] == payload_of_call(limit)
        details = port.failed("ping", payload_of_call(limit + 1))
        assert (details["kind"], details["path"], details["retryable"]) == ("input", "arguments", False)
        assert (details["limit"], details["option"]) == (limit, "max_request_bytes")
        assert f"expected at most {limit} bytes at arguments, got {limit + 1}; max_request_bytes" in details["message"]
        assert port.done("ping", "later")["payload"] == "later"


def test_huge_request_costs_no_memory() -> None:
    """A frame of any declared size was given memory before."""
    with PortProcess([f"--max-request-bytes={LIMIT}"]) as port:
        port.done("ping", "before")
        before = _status(port, "VmHWM") if sys.platform == "linux" else 0
        details = port.failed("ping", "x" * 100 * MIB)
        assert details["kind"] == "input"
        if before:
            assert _status(port, "VmHWM") - before < 10 * MIB


def test_answer_just_below_the_limit_is_sent_and_just_above_refused() -> None:
    with PortProcess([f"--max-answer-bytes={LIMIT}"]) as port:
        empty = len(encode((Atom("r"), 1, "")))
        assert len(port.call("operator", "mul", "x", LIMIT - empty)[2]) == LIMIT - empty
        tag, _, (_, kind, message, _) = port.call("operator", "mul", "x", LIMIT - empty + 1)
        assert (tag, kind) == ("e", "erlport_bridge.errors.EncodeError")
        expected = f"expected at most {LIMIT} bytes at the answer, got {LIMIT + 1}; max_answer_bytes sets this limit"
        assert message == expected
        assert port.call("operator", "mul", "x", 3)[2] == "xxx"


def test_answer_of_an_operation_beyond_the_limit_is_a_details_map() -> None:
    with PortProcess([f"--max-answer-bytes={MIN_MESSAGE_BYTES}"]) as port:
        details = port.failed("ping", "x" * MIN_MESSAGE_BYTES)
        assert (details["kind"], details["retryable"]) == ("encode", False)


@pytest.mark.parametrize("flag", ["--max-request-bytes", "--max-answer-bytes"])
def test_limit_that_no_error_answer_fits_is_refused(flag: str) -> None:
    with PortProcess([f"{flag}={MIN_MESSAGE_BYTES - 1}"]) as port:
        assert f"expected at least {MIN_MESSAGE_BYTES} bytes" in port.stderr_text()


@_ON_LINUX
@pytest.mark.parametrize(
    ("room", "value"),
    [
        (20 * MIB, lambda: "x" * 30 * MIB),  # no memory for the frame
        (50 * MIB, lambda: "x" * 30 * MIB),  # none for the text in it
        (60 * MIB, lambda: [7] * 15 * MIB),  # none for the list in it
        (60 * MIB, lambda: [{}] * 3 * MIB),
        (60 * MIB, lambda: [b"\xff\xfe"] * 2 * MIB),
    ],
    ids=["frame", "text", "integers", "maps", "binaries"],
)
def test_request_for_which_there_is_no_memory_is_the_error_of_its_call(room: int, value: Callable[[], Any]) -> None:
    """A ``MemoryError`` in the reader ended Python, with all its sessions."""
    with PortProcess() as port:
        session_id = port.done("create_program", "question -> answer")["session_id"]
        most = _status(port, "VmSize") + room
        resource.prlimit(port.process.pid, resource.RLIMIT_AS, (most, most))
        details = port.failed("execute_module", "dspy.Predict", "question -> answer", {"question": value()})
        assert (details["kind"], details["retryable"]) == ("overloaded", False)
        assert re.search("python has no memory for ", details["message"])
        assert port.done("session_info", session_id)["id"] == session_id


@_ON_LINUX
def test_answer_for_which_there_is_no_memory_is_the_error_of_its_call() -> None:
    with PortProcess() as port:
        port.done("ping", "before")
        most = _status(port, "VmSize") + 110 * MIB
        resource.prlimit(port.process.pid, resource.RLIMIT_AS, (most, most))
        tag, _, (_, kind, message, _) = port.call("operator", "mul", ["x"], 12 * MIB)
        assert (tag, kind) == ("e", "builtins.MemoryError"), message
        assert port.done("ping", "later")["payload"] == "later"


@pytest.mark.parametrize("arguments", [{}, None, "text"])
def test_call_whose_arguments_are_no_list_is_told(arguments: object) -> None:
    """Such a call was told on stderr alone, so its caller waited until its deadline."""
    with PortProcess() as port:
        port.done("ping", "before")
        port.send_message(encode((Atom("C"), 9, Atom("dspy_bridge"), Atom("ping"), arguments)))
        tag, call_id, (status, (_, details)) = port.receive()
        assert (tag, call_id, status, details["kind"], details["path"]) == ("r", 9, "error", "input", "arguments")


@pytest.mark.parametrize("rest", [(), ("dspy_bridge", "ping", []), (Atom("no_such"), Atom("thing"), 5)])
def test_call_in_another_form_is_told(rest: tuple[object, ...]) -> None:
    with PortProcess() as port:
        port.send_message(encode((Atom("C"), 9, *rest)))
        tag, call_id, (_, _, message, _) = port.receive()
        assert (tag, call_id) == ("e", 9)
        assert message.startswith("expected a ")


def _status(port: PortProcess, name: str) -> int:
    """Return a size of the process, in bytes, as ``/proc`` tells it."""
    for line in Path(f"/proc/{port.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)
