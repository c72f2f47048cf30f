"""Call Elixir functions and send messages to Elixir processes, from any thread and any task.

A thread uses :func:`begin_call` and waits for its future. A task awaits :func:`call`, which blocks no thread.
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
from erlport_bridge.request import asking
from erlport_bridge.term import OtpErlangPid, Term, shown, sort_maps

__all__ = ["answered", "begin_call", "call", "cast", "connect", "is_connected", "waiting"]

_Send = Callable[[ElixirCall | ElixirMessage], None]

_send: _Send | None = None
_calls: dict[int, Future[Term]] = {}
_calls_lock = threading.Lock()
_ids = itertools.count()
# The largest id, which still fits into INTEGER_EXT's 4 bytes; after it, ids begin at 1 again.
_MAX_ID: Final = 2**31 - 1


def connect(send: _Send) -> None:
    """Set the function that sends calls and messages to the other side.

    ``send`` must be safe to call from any thread, and must not block until the other side reads: event loops call it.
    """
    global _send
    _send = send


def is_connected() -> bool:
    """Return whether a port takes calls and messages of this process; under ErlPort's own Python half none does."""
    return _send is not None


def cast(pid: OtpErlangPid, term: Term) -> None:
    """Send a term to an Elixir process, without knowing whether the process still runs.

    Raises:
        EncodeError: ``term`` cannot be encoded.
        OperationError: Kind ``transport``: there is no port.
    """
    _connected()(ElixirMessage(pid, term))


def begin_call(module: str, function: str, arguments: Sequence[Term], *, is_seen: bool = True) -> Future[Term]:
    """Call an Elixir function; the future gets its result, or an :class:`OperationError` of kind ``tool``.

    ``is_seen``: whether the call does something that others see, so that it must not be made again.

    Raises:
        EncodeError: An argument cannot be encoded.
        OperationError: Kind ``transport``: there is no port.
    """
    _, future = _begin(module, function, arguments, is_seen)
    return future


async def call(module: str, function: str, arguments: Sequence[Term], *, is_seen: bool = True) -> Term:
    """Call an Elixir function and await its result; block no thread, and end at once on cancellation.

    The Elixir function does not notice the cancellation; its answer is dropped. ``is_seen``: see :func:`begin_call`.

    Raises:
        EncodeError: An argument cannot be encoded.
        OperationError: Kind ``tool``: the Elixir function failed. Kind ``transport``: there is no port.
    """
    call_id, future = _begin(module, function, arguments, is_seen)
    try:
        return await asyncio.wrap_future(future)
    finally:
        _forget(call_id)


def answered(answer: ElixirAnswer) -> None:
    """Pass the answer of a call to its future; drop an answer that nobody waits for any more."""
    with _calls_lock:
        future = _calls.pop(answer.id, None)
    if future is None or not future.set_running_or_notify_cancel():
        return
    # Before anybody else has the answer; models are shown the results of tools.
    sort_maps([answer.value])
    if answer.failed:
        future.set_exception(_failure(answer.value))
    else:
        future.set_result(answer.value)


def waiting() -> int:
    """Return the number of pending calls to Elixir."""
    with _calls_lock:
        return len(_calls)


def _begin(module: str, function: str, arguments: Sequence[Term], is_seen: bool) -> tuple[int, Future[Term]]:
    send = _connected()
    if is_seen:
        asking.note(is_seen=True)
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
    """Return the error of ``{'e', Id, Reason}``: a sentence of this project's Elixir side, or any term of ErlPort's."""
    match reason:
        case str():
            message = reason
        # An exception of Elixir is a map. ErlPort adds a stacktrace, which does not help the reader of this error.
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
