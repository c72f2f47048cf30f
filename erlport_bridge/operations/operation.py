"""Turn a function into an operation: its calls are counted, and every outcome of a call is an answer.

An operation answers ``{:ok, term}`` or ``{:error, {:python_exception, details}}`` and never raises.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

from erlport_bridge import errors, request
from erlport_bridge.counting import Spent
from erlport_bridge.errors import EncodeError, OperationError
from erlport_bridge.operations.port_state import metrics
from erlport_bridge.term import Atom

Operation = Callable[..., Awaitable[tuple[Atom, Any]] | tuple[Atom, Any]]

#: Every operation by name.
OPERATIONS: Final[dict[str, Operation]] = {}

#: The usage and cost of the running operation so far.
spending: Final[ContextVar[Spent]] = ContextVar("spending")

OK: Final = Atom("ok")
ERROR: Final = Atom("error")
PYTHON_EXCEPTION: Final = Atom("python_exception")


def operation(function: Callable[..., Any]) -> Operation:
    """Turn a function into an operation: count its calls, and make every outcome an answer.

    A plain function may run in any thread at any time, concurrently with others: it must be quick and change nothing. A
    function that waits or that changes sessions must be a coroutine function, which runs on the event loop.
    """
    name = function.__name__
    if not inspect.iscoroutinefunction(function):
        return _plain_operation(function)

    @functools.wraps(function)
    async def counted_while_awaited(*args: Any) -> tuple[Atom, Any]:
        with _Counted(name):
            return OK, await function(*args)

    return offered(counted_while_awaited)


def offered(function: Callable[..., Any]) -> Operation:
    """Register a coroutine function that returns an answer itself; if it raises, the exception becomes an answer."""
    counts = _counts(function)

    @functools.wraps(function)
    async def answered(*args: Any) -> tuple[Atom, Any]:
        try:
            if len(args) not in counts:
                raise _wrong_count(function, len(args))
            answer: tuple[Atom, Any] = await function(*args)
        except BaseException as error:  # noqa: BLE001 - here a call of an awaited operation becomes an answer
            return failure_term(error)
        return answer

    return _registered(answered)


def failure_term(error: BaseException) -> tuple[Atom, tuple[Atom, dict[str, Any]]]:
    """Return the answer of an operation that raised ``error``."""
    if isinstance(error, EncodeError):
        # The path is that within the result, not within {:ok, result}.
        error = EncodeError(error.reason, error.path.removeprefix("[1]"))
    return ERROR, (PYTHON_EXCEPTION, errors.details(error, request_id=request.request_id.get()))


def _plain_operation(function: Callable[..., Any]) -> Operation:
    """Turn a plain function into an operation, in one wrapper: more would take longer than the function itself."""
    name = function.__name__
    counts = _counts(function)

    @functools.wraps(function)
    def counted(*args: Any) -> tuple[Atom, Any]:
        started_at = time.monotonic()
        try:
            if len(args) not in counts:
                raise _wrong_count(function, len(args))
            answer = OK, function(*args)
        except BaseException as error:  # noqa: BLE001 - here a call of a plain operation becomes an answer
            metrics.add("operations", name, started_at, kind=errors.kind_of(error))
            return failure_term(error)
        metrics.add("operations", name, started_at)
        return answer

    counted.is_harmless = True  # type: ignore[attr-defined]
    return _registered(counted)


def _registered(operation: Any) -> Operation:
    operation.failure_term = failure_term
    OPERATIONS[operation.__name__] = operation
    return operation  # type: ignore[no-any-return]


class _Counted:
    """A context manager that counts its body as one call of an operation."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spent = Spent()

    def __enter__(self) -> None:
        spending.set(self._spent)
        received_at = request.received_at.get()
        self._running = metrics.begin("operations", self._name)
        self._queued_s = None if received_at is None else self._running.started_at - received_at

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        kind = None if error is None else errors.kind_of(error)
        metrics.end(self._running, kind=kind, queued_s=self._queued_s, spent=self._spent)


def _counts(function: Callable[..., Any]) -> range:
    """Return the range of the number of arguments that a function accepts."""
    parameters = inspect.signature(function).parameters.values()
    return range(sum(parameter.default is parameter.empty for parameter in parameters), len(parameters) + 1)


def _wrong_count(function: Callable[..., Any], count: int) -> OperationError:
    takes = ", ".join(inspect.signature(function).parameters)
    return OperationError("input", f"{function.__name__} takes ({takes}), got {count} arguments")
