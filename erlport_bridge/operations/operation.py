"""Turn a function into an operation: its calls are counted, and every outcome of a call is an answer.

An operation answers ``{:ok, term}`` or ``{:error, {:python_exception, details}}`` and never raises. The answer to a
call with the option ``trace`` has a third element, the trace.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from erlport_bridge import errors, request, worker
from erlport_bridge.counting import Spent
from erlport_bridge.errors import EncodeError, OperationError
from erlport_bridge.limits import ID_BYTES, OPTIONS
from erlport_bridge.operations.port_state import metrics
from erlport_bridge.programs.execution import wanted_recording
from erlport_bridge.programs.sessions import during_operation
from erlport_bridge.term import Atom, sort_maps
from erlport_bridge.tracing import Recording, record

#: ``{:ok, term}`` or ``{:error, reason}``, with the trace as a third element if the call wants one.
Answer = tuple[Any, ...]
Operation = Callable[..., Awaitable[Answer] | Answer]

#: Every operation by name.
OPERATIONS: Final[dict[str, Operation]] = {}

#: The usage and cost of the running operation so far.
spending: Final[ContextVar[Spent]] = ContextVar("spending")

OK: Final = Atom("ok")
ERROR: Final = Atom("error")
PYTHON_EXCEPTION: Final = Atom("python_exception")

# What the names of those operations begin with that run modules, and so have spans.
_TRACED: Final = ("execute_", "stream_", "evaluate_", "compile_")
# A longer timeout is an error, which reading the options tells.
_LONGEST_MS: Final = 2**32


def operation(function: Callable[..., Any]) -> Operation:
    """Turn a function into an operation: count its calls, and make every outcome an answer.

    A plain function may run in any thread at any time, concurrently with others: it must be quick and change nothing. A
    function that waits or that changes sessions must be a coroutine function, which runs on the event loop.
    """
    return _awaited_operation(function) if inspect.iscoroutinefunction(function) else _plain_operation(function)


def batch_operation(function: Callable[..., Any]) -> Operation:
    """Turn a coroutine function into an operation on many items, which are its last argument before the options.

    The items are neither weighed nor sorted here. Each is read when it begins, so that a deadline that passes meanwhile
    is the error of the items that are left, not of the whole call.
    """
    return _awaited_operation(function, items_at=len(inspect.signature(function).parameters) - 2)


def _awaited_operation(function: Callable[..., Any], items_at: int | None = None) -> Operation:
    name = function.__name__
    parameters = list(inspect.signature(function).parameters)
    options_at = parameters.index("opts") if "opts" in parameters else None
    is_traced = name.startswith(_TRACED)

    @functools.wraps(function)
    async def counted_while_awaited(*args: Any) -> Answer:
        recording = wanted_recording(name, args[-1] if options_at == len(args) - 1 else None) if is_traced else None
        if recording is None:
            return await run(*args)
        return await _recorded(recording, name, run, args)

    async def run(*args: Any) -> Answer:
        read_at_once = [value for place, value in enumerate(args) if place != items_at]
        request.weight.weigh(*read_at_once)
        with _Counted(name), during_operation():
            if request.weight.of_request():
                _begin_early(args[-1])
            await request.weight.aside(sort_maps, read_at_once)
            return OK, await function(*args)

    return offered(counted_while_awaited)


async def _recorded(
    recording: Recording, name: str, run: Callable[..., Awaitable[Answer]], args: tuple[Any, ...]
) -> Answer:
    """Run an operation and record it; return its answer, with the trace if the caller wants it."""
    received_at = request.received_at.get()
    try:
        with record(recording, "python", name, received_at) as span:
            span.set(queue_us=span.since_start_us(), **worker.identity())
            recording.export_wait(span)
            answer = await run(*args)
    except BaseException as error:  # noqa: BLE001 - an error has its trace too
        answer = failure_term(error)
    if recording.is_told:
        return *answer, recording.term()
    recording.close()
    return answer


def offered(function: Callable[..., Any]) -> Operation:
    """Register a coroutine function that returns an answer itself; if it raises, the exception becomes an answer."""
    counts = _counts(function)

    @functools.wraps(function)
    async def answered(*args: Any) -> Answer:
        try:
            if len(args) not in counts:
                raise _wrong_count(function, len(args))
            answer: Answer = await function(*args)
        except BaseException as error:  # noqa: BLE001 - here a call of an awaited operation becomes an answer
            return failure_term(error)
        return answer

    return _registered(answered)


def _begin_early(options: object) -> None:
    """Start the deadline of a heavy call, and register its id for ``cancel``, before a thread reads its options."""
    if not isinstance(options, Mapping) or len(options) > OPTIONS.most:
        return
    given = {str(name): value for name, value in options.items() if name in ("request_id", "timeout")}
    name, timeout = given.get("request_id"), given.get("timeout")
    if isinstance(name, str) and len(name) <= ID_BYTES.most:
        request.begin(name)
    if type(timeout) is int and 0 < timeout < _LONGEST_MS:
        request.ends_at.set((request.received_at.get() or time.monotonic()) + timeout / 1000)


def failure_term(error: BaseException, lost: object = None) -> tuple[Atom, tuple[Atom, dict[str, Any]]]:
    """Return the answer of an operation that raised ``error``, or whose answer ``lost`` could not be sent."""
    match lost:
        case (_, {"$meta": {"usage": usage, "cost": cost}}):
            errors.note_paid(error, usage, cost)
    if isinstance(error, EncodeError):
        # The path is that within the result, not within {:ok, result}.
        error = errors.copy_paid(error, EncodeError(error.reason, error.path.removeprefix("[1]")))
    if isinstance(error, request.weight.LateError):
        error = errors.copy_paid(error, OperationError("timeout", str(error), stage="queue"))
    return ERROR, (PYTHON_EXCEPTION, errors.details(error, request_id=request.request_id.get()))


def _plain_operation(function: Callable[..., Any]) -> Operation:
    """Turn a plain function into an operation, in one wrapper: more would take longer than the function itself."""
    name = function.__name__
    counts = _counts(function)

    @functools.wraps(function)
    def counted(*args: Any) -> Answer:
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
        self._call = request.running.begin(self._name)
        self._running = metrics.begin("operations", self._name)
        self._queued_s = None if received_at is None else self._running.started_at - received_at

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        request.running.end(self._call)
        kind = None if error is None else errors.kind_of(error)
        metrics.end(self._running, kind=kind, queued_s=self._queued_s, spent=self._spent)


def _counts(function: Callable[..., Any]) -> range:
    """Return the range of the number of arguments that a function accepts."""
    parameters = inspect.signature(function).parameters.values()
    return range(sum(parameter.default is parameter.empty for parameter in parameters), len(parameters) + 1)


def _wrong_count(function: Callable[..., Any], count: int) -> OperationError:
    takes = ", ".join(inspect.signature(function).parameters)
    return OperationError(
        "input", f"{function.__name__} takes ({takes}), got {count} argument{'' if count == 1 else 's'}"
    )
