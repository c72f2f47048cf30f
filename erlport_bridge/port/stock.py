"""Adapt the operations to ErlPort's own Python half, which calls them one at a time with terms of its own.

There, ``Atom`` is a ``bytes`` subclass, a binary is ``bytes``, ``nil`` is the (true) atom ``b"nil"``, and pids, ports
and references are ``OpaqueObject``. ErlPort would encode every ``str`` as a charlist, ``None`` as ``undefined``, and an
unknown object as a pickle. So a result is encoded by this project's codec, as an opaque term that ErlPort sends
unchanged.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.port import event_loop
from erlport_bridge.port.leaving import leave
from erlport_bridge.port.watching import hang_up
from erlport_bridge.redaction import RedactedStream
from erlport_bridge.term import Atom, ImproperList, decode, encode
from erlport_bridge.threads import Threads

_VERSION_BYTE = b"\x83"
_NAMED = {"nil": None, "true": True, "false": False}


def in_use() -> bool:
    """Return whether ErlPort's own Python half runs this process."""
    return "erlport.erlang" in sys.modules


def adapted(operations: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return the operations as functions that ErlPort's Python half can call.

    They run on one event loop in a thread of its own, because connections to a model's server belong to a loop. Printed
    text goes to stderr from now on: ErlPort would send each write to the Erlang side as a message of its own.
    """
    sys.stdout = sys.stderr = RedactedStream(2)
    threading.Thread(target=_leave_with_the_port, name="port", daemon=True).start()
    loop = event_loop.start(Threads())
    return {name: _adapted(operation, loop) for name, operation in operations.items()}


def _adapted(operation: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
    async def call(args: tuple[Any, ...]) -> Any:
        result: Any = None
        try:
            result = operation(*_arguments(args))
            if isinstance(result, Awaitable):
                result = await result
            return to_stock(result)
        except Exception as error:  # noqa: BLE001 - an argument or result that is no term is answered as any failure
            return to_stock(operation.failure_term(error, result))  # type: ignore[attr-defined]

    @functools.wraps(operation)
    def called(*args: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call(args), loop).result()

    return called


def _arguments(args: tuple[Any, ...]) -> list[Any]:
    try:
        return [from_stock(arg) for arg in args]
    except RecursionError:
        raise OperationError("input", "expected arguments that nest less deep") from None


def _leave_with_the_port() -> None:
    """End the process when the other side has closed the port.

    Unlike ErlPort, which notices only when it reads or writes again: there, an endless call would keep the process of a
    stopped port alive.
    """
    written_end = 4 if "--nouse_stdio" in sys.orig_argv else 1
    if hang_up(written_end, is_written=True).wait():
        leave(0)


def from_stock(term: Any) -> Any:
    """Convert a term of ErlPort's Python half to the form that this package's codec decodes.

    ErlPort has already merged keys that are equal in Python (an atom and a binary of the same name).
    """
    kind = type(term).__name__
    if kind == "Atom":
        name = bytes(term).decode("latin-1")
        return _NAMED[name] if name in _NAMED else Atom(name)
    if term is None:
        return Atom("undefined")
    if kind == "OpaqueObject":
        return decode(_VERSION_BYTE + term.data)
    if kind == "ImproperList":
        return ImproperList([from_stock(item) for item in term], from_stock(term.tail))
    if isinstance(term, bytes):
        return _binary(term)
    if isinstance(term, list):
        return [from_stock(item) for item in term]
    if isinstance(term, tuple):
        return tuple(from_stock(item) for item in term)
    if isinstance(term, Mapping):
        return {from_stock(key): from_stock(value) for key, value in term.items()}
    return term


def to_stock(term: Any) -> Any:
    """Encode a term as an opaque object that ErlPort's Python half sends unchanged.

    Raises:
        EncodeError: ``term`` cannot be encoded.
    """
    from erlport.erlterms import Atom as StockAtom
    from erlport.erlterms import OpaqueObject

    return OpaqueObject(encode(term)[len(_VERSION_BYTE) :], StockAtom(b"erlang"))


def _binary(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data
