"""Begin a task at once: its first step runs before the task is returned, and not in a later turn of the event loop.

Much work waits for nothing, if a model answers at once or from a cache. The turns of the loop that a task otherwise
takes are a tenth of a prediction then.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def begin(work: Coroutine[Any, Any, _Result], loop: asyncio.AbstractEventLoop) -> asyncio.Task[_Result]:
    """Return a task whose first step has run; to be called on its loop.

    Raises:
        KeyboardInterrupt, SystemExit: Of the first step, as a step of any task raises them into its loop.
    """
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return _begin_by_hand(work, loop)


def _begin_by_hand(work: Coroutine[Any, Any, _Result], loop: asyncio.AbstractEventLoop) -> asyncio.Task[_Result]:
    """Do what ``eager_start`` does: catch the first step, which a new task gives to its loop, and run it here."""
    steps: list[tuple[Callable[[], object], Context]] = []
    call_soon = loop.call_soon

    def catch(callback: Callable[..., Any], *arguments: Any, context: Context | None = None) -> Any:
        # The garbage collector may run something meanwhile that calls this too.
        if steps or context is None or not isinstance(getattr(callback, "__self__", None), asyncio.Task):
            return call_soon(callback, *arguments, context=context)
        return steps.append((callback, context))

    own = vars(loop).get("call_soon")
    loop.call_soon = catch  # type: ignore[assignment, method-assign]
    try:
        task = asyncio.Task(work, loop=loop)
    finally:
        del loop.call_soon
        if own is not None:
            loop.call_soon = own  # type: ignore[method-assign]
    current = asyncio.current_task(loop)
    if current is not None:
        tasks._leave_task(loop, current)
    try:
        for step, context in steps:
            context.run(step)
    finally:
        if current is not None:
            tasks._enter_task(loop, current)
    return task
