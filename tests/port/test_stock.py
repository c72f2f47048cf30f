"""Test the conversion of terms from and to ErlPort's own Python half.

ErlPort's Python half is in no package registry. The classes here stand in for its classes and have the same shapes
(0.11); the same operations were run by hand under the real ErlPort.
"""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from erlport_bridge.errors import EncodeError
from erlport_bridge.port import event_loop, stock
from erlport_bridge.term import Atom, ImproperList, OtpErlangPid, decode, encode
from erlport_bridge.threads import Threads

PID = b"X" + encode(Atom("nonode@nohost"))[1:] + bytes(8) + b"\0\0\0\0"


class StockAtom(bytes):
    """ErlPort's ``Atom``."""


StockAtom.__name__ = "Atom"


class OpaqueObject:
    """ErlPort's class for terms that it does not decode."""

    def __init__(self, data: bytes, language: bytes) -> None:
        self.data = data
        self.language = language


class StockImproperList(list[Any]):
    """ErlPort's ``ImproperList``."""

    def __init__(self, items: list[Any], tail: Any) -> None:
        super().__init__(items)
        self.tail = tail


StockImproperList.__name__ = "ImproperList"


@pytest.fixture
def erlterms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``erlport.erlterms`` importable."""
    module = ModuleType("erlport.erlterms")
    module.Atom = StockAtom  # type: ignore[attr-defined]
    module.OpaqueObject = OpaqueObject  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "erlport", ModuleType("erlport"))
    monkeypatch.setitem(sys.modules, "erlport.erlterms", module)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (StockAtom(b"nil"), None),
        (True, True),
        (None, Atom("undefined")),
        (StockAtom(b"caf\xe9"), Atom("café")),
        (b"text", "text"),
        (b"\xff", b"\xff"),
        ({StockAtom(b"question"): [b"a", (1, 2.5)]}, {Atom("question"): ["a", (1, 2.5)]}),
        (StockImproperList([1], 2), ImproperList([1], 2)),
        ([], []),
    ],
)
def test_terms_come_in_as_this_package_has_them(given: Any, expected: Any) -> None:
    found = stock.from_stock(given)
    assert found == expected
    assert type(found) is type(expected)


def test_pids_come_in_as_pids_and_go_out_byte_for_byte(erlterms: None) -> None:
    pid = stock.from_stock(OpaqueObject(PID, StockAtom(b"erlang")))
    assert isinstance(pid, OtpErlangPid)
    assert stock.to_stock(pid).data == PID


def test_results_go_out_as_binaries_and_nil_not_as_charlists_and_undefined(erlterms: None) -> None:
    sent = stock.to_stock((Atom("ok"), {"answer": "text", "path": None}))
    assert sent.language == b"erlang"
    assert decode(b"\x83" + sent.data) == (Atom("ok"), {"answer": "text", "path": None})
    assert encode("text")[1:] in sent.data
    assert encode(None)[1:] in sent.data


def test_result_that_cannot_be_encoded_is_refused(erlterms: None) -> None:
    with pytest.raises(EncodeError):
        stock.to_stock(object())


def test_process_exits_when_its_port_is_closed_although_a_call_goes_on() -> None:
    """Under ErlPort's Python half, the process of a stopped port once stayed as long as its call ran."""
    code = "import time; from erlport_bridge.port import stock; stock.adapted({}); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.stdout.close()
        assert process.wait(timeout=30) == 0


def test_arguments_that_nest_too_deep_are_an_error_of_that_call(erlterms: None) -> None:
    async def operation(*args: Any) -> Any:
        return args

    operation.failure_term = lambda error, lost: (Atom("error"), error.kind)  # type: ignore[attr-defined]
    loop = event_loop.start(Threads())
    called = stock._adapted(operation, loop)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert decode(b"\x83" + called(deep).data) == (Atom("error"), "input")
    assert decode(b"\x83" + called(StockAtom(b"nil")).data) == (None,)


def test_stock_half_is_recognised_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not stock.in_use()
    monkeypatch.setitem(sys.modules, "erlport.erlang", ModuleType("erlport.erlang"))
    assert stock.in_use()
