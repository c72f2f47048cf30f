"""Test calls to Elixir, from threads and tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from erlport_bridge.errors import EncodeError, OperationError
from erlport_bridge.port import elixir
from erlport_bridge.port.protocol import ElixirAnswer, ElixirCall, ElixirMessage, parse_message
from erlport_bridge.term import Atom, encode


class OtherSide:
    """A stand-in for the Elixir side that records calls, and answers when a test asks it to."""

    def __init__(self) -> None:
        self.calls: list[ElixirCall] = []
        self._changed = threading.Condition()

    def send(self, message: ElixirCall | ElixirMessage) -> None:
        """Record a call."""
        assert isinstance(message, ElixirCall)
        encode(message.arguments)
        with self._changed:
            self.calls.append(message)
            self._changed.notify_all()

    async def receive(self, count: int) -> list[ElixirCall]:
        """Wait until ``count`` calls have come, and return all of them."""

        def wait() -> list[ElixirCall]:
            with self._changed:
                assert self._changed.wait_for(lambda: len(self.calls) >= count, 10)
                return list(self.calls)

        return await asyncio.to_thread(wait)


@pytest.fixture
def other_side(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherSide]:
    side = OtherSide()
    monkeypatch.setattr(elixir, "_send", side.send)
    yield side
    assert elixir.waiting() == 0


def test_task_gets_its_own_answer_whatever_the_order(other_side: OtherSide) -> None:
    async def run() -> list[Any]:
        calls = [asyncio.ensure_future(elixir.call("m", "f", [number])) for number in range(20)]
        for call in reversed(await other_side.receive(20)):
            elixir.answered(ElixirAnswer(call.id, call.arguments[0] * 2, failed=False))
        return await asyncio.gather(*calls)

    assert asyncio.run(run()) == [number * 2 for number in range(20)]


def test_thread_gets_its_answer(other_side: OtherSide) -> None:
    future = elixir.begin_call("m", "f", ["x"])
    elixir.answered(ElixirAnswer(other_side.calls[0].id, "y", failed=False))
    assert future.result(0) == "y"


def test_cancelled_call_ends_at_once_and_its_late_answer_is_dropped(other_side: OtherSide) -> None:
    async def run() -> None:
        call = asyncio.ensure_future(elixir.call("m", "f", []))
        [sent] = await other_side.receive(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert elixir.waiting() == 0
        elixir.answered(ElixirAnswer(sent.id, "late", failed=False))

    asyncio.run(run())


def test_argument_that_cannot_be_encoded_is_an_error_and_no_call_is_pending(other_side: OtherSide) -> None:
    with pytest.raises(EncodeError):
        asyncio.run(elixir.call("m", "f", [object()]))
    with pytest.raises(EncodeError):
        elixir.begin_call("m", "f", [object()])


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("out of stock", "out of stock"),
        ((Atom("erlang"), Atom("error"), Atom("undef"), ["long"]), "the function in Elixir failed: :undef"),
        ((Atom("erlang"), Atom("error"), {Atom("message"): "no such"}, ["long"]), "no such"),
        ([1], "the function in Elixir failed: [1]"),
    ],
)
def test_failure_is_one_sentence(other_side: OtherSide, reason: Any, message: str) -> None:
    future = elixir.begin_call("m", "f", [])
    elixir.answered(ElixirAnswer(other_side.calls[0].id, reason, failed=True))
    with pytest.raises(OperationError) as caught:
        future.result(0)
    assert (caught.value.kind, caught.value.message) == ("tool", message)


def test_process_without_a_port_raises_a_transport_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elixir, "_send", None)
    with pytest.raises(OperationError, match="there is no port"):
        asyncio.run(elixir.call("m", "f", []))
    assert elixir.waiting() == 0


def test_result_that_python_cannot_hold_is_a_failure_of_its_call() -> None:
    """Such a frame was once dropped, and the call waited for ever."""
    # {r, 7, [#{1 => [], 1.0 => []}]}
    one, one_as_float = b"a\x01", b"F\x3f\xf0\0\0\0\0\0\0"
    message = b"\x83h\x03w\x01ra\x07l\0\0\0\x01t\0\0\0\x02" + one + b"j" + one_as_float + b"j" + b"j"
    assert parse_message(message) == ElixirAnswer(
        7, "the result cannot be read: a map with the keys 1 and 1.0, which are one key in Python at [0]", failed=True
    )


def test_ids_begin_again_where_erlang_would_need_a_larger_integer(
    other_side: OtherSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elixir, "_ids", iter([2**31 - 2, 2**31 - 1]))
    for _ in range(2):
        elixir.begin_call("m", "f", [])
    assert [call.id for call in other_side.calls] == [2**31 - 1, 1]
    for call in other_side.calls:
        elixir.answered(ElixirAnswer(call.id, None, failed=False))
