"""Calls and messages to the other side, from any thread and any task."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.port.protocol import ElixirAnswer, ElixirCall, ElixirMessage
from erlport_bridge.term import OtpErlangPid, Term

__all__ = ["answered", "begin_call", "cast", "connect"]

_send: Callable[[ElixirCall | ElixirMessage], None] | None = None
_calls: dict[int, Future[Term]] = {}
_calls_lock = threading.Lock()
_ids = itertools.count(1)


def connect(send: Callable[[ElixirCall | ElixirMessage], None]) -> None:
    """Say how messages go out; ``send`` must be safe to call from any thread."""
    global _send
    _send = send


def cast(pid: OtpErlangPid, term: Term) -> None:
    """Send a term to a process over there. Whether it still runs is not known.

    Raises:
        EncodeError: The term is none.
        OperationError: Of kind ``transport``: there is no port.
    """
    _connected()(ElixirMessage(pid, term))


def begin_call(module: str, function: str, arguments: Sequence[Term]) -> Future[Term]:
    """Call a function over there; the future has its result, or an :class:`OperationError` of kind ``tool``.

    Raises:
        EncodeError: An argument is no term.
        OperationError: Of kind ``transport``: there is no port.
    """
    future: Future[Term] = Future()
    with _calls_lock:
        call_id = next(_ids)
        _calls[call_id] = future
    try:
        _connected()(ElixirCall(call_id, module, function, list(arguments)))
    except BaseException:
        with _calls_lock:
            _calls.pop(call_id, None)
        raise
    return future


def answered(answer: ElixirAnswer) -> None:
    """Take the answer to a call; one that nobody waits for any more is dropped."""
    with _calls_lock:
        future = _calls.pop(answer.id, None)
    if future is None or not future.set_running_or_notify_cancel():
        return
    if answer.failed:
        future.set_exception(_failure(answer.value))
    else:
        future.set_result(answer.value)


def _failure(reason: Any) -> OperationError:
    return OperationError("tool", f"the function in Elixir failed: {reason}")


def _connected() -> Callable[[ElixirCall | ElixirMessage], None]:
    if _send is None:
        raise OperationError("transport", "there is no port to Elixir in this process")
    return _send
