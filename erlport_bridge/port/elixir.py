"""Calls and messages to the other side, from any thread and any task.

A thread uses :func:`begin_call` and waits for its future; a task awaits :func:`call`, which holds no thread.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.port.protocol import ElixirAnswer, ElixirCall, ElixirMessage
from erlport_bridge.term import OtpErlangPid, Term, shown

__all__ = ["answered", "begin_call", "call", "cast", "connect", "is_connected", "waiting"]

_Send = Callable[[ElixirCall | ElixirMessage], None]

_send: _Send | None = None
_calls: dict[int, Future[Term]] = {}
_calls_lock = threading.Lock()
_ids = itertools.count()
# The largest that Erlang's integers of 4 bytes hold; after it ids begin at 1 again.
_MAX_ID: Final = 2**31 - 1


def connect(send: _Send) -> None:
    """Say how messages go out.

    ``send`` must be safe to call from any thread, and must not wait for the other side to read: event loops call it.
    """
    global _send
    _send = send


def is_connected() -> bool:
    """Tell whether there is a port that takes calls and messages; ErlPort's own Python half is none."""
    return _send is not None


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
    _, future = _begin(module, function, arguments)
    return future


async def call(module: str, function: str, arguments: Sequence[Term]) -> Term:
    """Call a function over there and wait for its result; holds no thread, and ends at once when it is cancelled.

    The function over there is not told of the cancelling; its answer is dropped.

    Raises:
        EncodeError: An argument is no term.
        OperationError: Of kind ``tool``: the function failed. Of kind ``transport``: there is no port.
    """
    call_id, future = _begin(module, function, arguments)
    try:
        return await asyncio.wrap_future(future)
    finally:
        _forget(call_id)


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


def waiting() -> int:
    """Give how many calls wait for an answer."""
    with _calls_lock:
        return len(_calls)


def _begin(module: str, function: str, arguments: Sequence[Term]) -> tuple[int, Future[Term]]:
    send = _connected()
    future: Future[Term] = Future()
    with _calls_lock:
        call_id = next(_ids) % _MAX_ID + 1
        _calls[call_id] = future
    try:
        send(ElixirCall(call_id, module, function, list(arguments)))
    except BaseException:
        _forget(call_id)
        raise
    return call_id, future


def _forget(call_id: int) -> None:
    with _calls_lock:
        _calls.pop(call_id, None)


def _failure(reason: Any) -> OperationError:
    """Make an error of ``{'e', Id, Reason}``: a sentence from our own Elixir side, any term from ErlPort's."""
    match reason:
        case str():
            message = reason
        # ErlPort adds a stacktrace, which is not for whoever reads the error here. An exception of Elixir is a map.
        case ("erlang", _, {"message": str(raised)}, _):
            message = raised
        case ("erlang", _, cause, _):
            message = f"the function in Elixir failed: {shown(cause)}"
        case _:
            message = f"the function in Elixir failed: {shown(reason)}"
    return OperationError("tool", message)


def _connected() -> _Send:
    if _send is None:
        raise OperationError("transport", "there is no port to Elixir in this process")
    return _send
