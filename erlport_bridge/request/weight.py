"""Keep long work off the event loop: work on what is large runs in a thread, where others run beside it.

Nothing may run on the event loop for a time that one caller, or the model of one call, chooses: no deadline of another
call would be noticed meanwhile. So a value is weighed first, which takes a bounded time, and work on a *heavy* one runs
in a thread, which is interrupted when the call ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

from erlport_bridge.request.context import ends_at

_Result = TypeVar("_Result")

# A lighter value is read, converted or encoded within a few milliseconds.
_HEAVY: Final = 65_536
# The weight of a value beside its text: work on values costs more than work on text.
_OF_A_VALUE: Final = 32
# An integer below it has no weight beside that of a value.
_SMALL: Final = 2**63
_TEXTS: Final = (str, bytes)
_CONTAINERS: Final = (list, tuple, set, frozenset)
#: How much heavy work runs at once. Each of these threads may keep the loop waiting for the GIL, for 2 ms at a time.
MOST_AT_ONCE: Final = 4

_LATE: Final = 'no answer within the timeout; the time ran out in stage "queue", while large values were worked on'

# Whether the current request has brought something heavy.
_is_heavy: ContextVar[bool] = ContextVar("is_heavy", default=False)
# Threads of their own, since tools may hold all others; ``None``: those of the loop.
_executor: Executor | None = None
_running: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = weakref.WeakKeyDictionary()


def is_heavy(*values: object) -> bool:
    """Return whether values are so large that work on them may not run on the event loop.

    >>> is_heavy({"text": "x" * 1_000}), is_heavy("x" * 100_000), is_heavy(list(range(10_000)))
    (False, True, True)
    """
    left = _HEAVY
    waiting: list[Any] = list(values)
    # The list grows while it is read. Exact types come first: each call weighs about a hundred values.
    for value in waiting:
        left -= _OF_A_VALUE
        kind = type(value)
        if kind is str:
            left -= len(value)
        elif value is None or kind is float or kind is bool or (kind is int and -_SMALL < value < _SMALL):
            continue
        elif kind is dict or kind is list or kind is tuple:
            left -= _OF_A_VALUE * len(value)
            if left > 0:
                waiting += value
                if kind is dict:
                    waiting += value.values()
        elif isinstance(value, _TEXTS):
            left -= len(value)
        elif isinstance(value, dict):
            left -= _OF_A_VALUE * len(value)
            if left > 0:
                waiting += value.values()
                waiting += value
        elif isinstance(value, _CONTAINERS):
            left -= _OF_A_VALUE * len(value)
            if left > 0:
                waiting += value
        elif isinstance(value, int):
            left -= value.bit_length() // 8
        else:
            fields = getattr(value, "__dict__", None)
            if type(fields) is dict:
                waiting.append(fields)
        if left <= 0:
            return True
    return False


def weigh(*values: object) -> None:
    """Record whether what the current request, or one item of it, has brought is heavy; see :func:`aside`."""
    _is_heavy.set(is_heavy(*values))


def add(*values: object) -> None:
    """Record that the current request works on these values too, which it has found here."""
    if not _is_heavy.get():
        _is_heavy.set(is_heavy(*values))


def of_request() -> bool:
    """Return whether the current request has brought something heavy."""
    return _is_heavy.get()


class LateError(TimeoutError):
    """The budget of the request ended before its heavy work did."""


def use(threads: Executor) -> None:
    """Set the threads for heavy work, at least :data:`MOST_AT_ONCE`."""
    global _executor
    _executor = threads


def executor() -> Executor | None:
    """Return the threads for heavy work; ``None``: those of the loop."""
    return _executor


async def aside(function: Callable[..., _Result], *arguments: Any, heavy: bool | None = None) -> _Result:
    """Call a function that does not wait: here, or in a thread if its work is heavy.

    Context variables that it sets are set for the caller too, as if it had been called here.

    Args:
        function: The function; in a thread, it is interrupted when the caller is cancelled.
        arguments: Its arguments.
        heavy: Whether its work is heavy; by default, if the current request has brought something heavy.

    Raises:
        LateError: The budget of the request has ended, also while other heavy work held the threads.
    """
    if not (_is_heavy.get() if heavy is None else heavy):
        return function(*arguments)
    loop = asyncio.get_running_loop()
    semaphore = _running.get(loop)
    if semaphore is None:
        semaphore = _running[loop] = asyncio.Semaphore(MOST_AT_ONCE)
    context = contextvars.copy_context()

    async def in_thread() -> _Result:
        async with semaphore:
            return await loop.run_in_executor(_executor, context.run, function, *arguments)

    end = ends_at.get()
    work = asyncio.ensure_future(in_thread())
    try:
        await asyncio.wait({work}, timeout=None if end is None else max(0.0, end - time.monotonic()))
        if not work.done():
            raise LateError(_LATE)
        result = work.result()
    finally:
        # At the deadline, and when the caller is cancelled.
        work.cancel()
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)
    return result


async def to_thread(function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
    """Call a function in a thread, as ``asyncio.to_thread`` does; for a request that brings much, as :func:`aside`.

    Tools may hold all threads of the loop, and work of other functions must not wait for them. A loop may know
    functions so quick that it runs them itself: it has a method ``in_place``.
    """
    if _is_heavy.get():
        return await aside(partial(function, *arguments, **named))
    in_place = getattr(asyncio.get_running_loop(), "in_place", None)
    if in_place is not None and (call := in_place(function)) is not None:
        result: _Result = call(*arguments, **named)
        return result
    return await asyncio.to_thread(function, *arguments, **named)
