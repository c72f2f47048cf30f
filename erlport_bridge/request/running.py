"""List the calls that run in this process, each with its age and the stage that it has reached."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any, Protocol


class _Staged(Protocol):
    @property
    def stage(self) -> str: ...


class RunningCall:
    """A call between :func:`begin` and :func:`end`.

    Attributes:
        operation: The name of the operation.
        started_at: When it began, by the clock ``time.monotonic``.
        request_id: The name that the caller gave it, once the options are read.
        caller: Whose call it is.
        progress: Knows the stage; of a batch, that of the item that began last.
    """

    __slots__ = ("caller", "operation", "progress", "request_id", "started_at")

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.started_at = time.monotonic()
        self.request_id: str | None = None
        self.caller: str | None = None
        self.progress: _Staged | None = None


# A dict keeps the order in which the calls began.
_calls: dict[RunningCall, None] = {}
#: The call that the current code runs for; ``None`` outside of a call.
current: ContextVar[RunningCall | None] = ContextVar("running_call", default=None)


def begin(operation: str) -> RunningCall:
    """Record the start of a call, which becomes that of the current context."""
    call = RunningCall(operation)
    _calls[call] = None
    current.set(call)
    return call


def end(call: RunningCall) -> None:
    """Record the end of a call."""
    del _calls[call]


def describe(most: int) -> list[dict[str, Any]]:
    """Return at most so many running calls as terms, the oldest first."""
    now, clock = time.monotonic(), time.time()
    return [
        {
            "operation": call.operation,
            "request_id": call.request_id,
            "caller": call.caller,
            "at_ms": (clock - now + call.started_at) * 1000,
            "age_ms": (now - call.started_at) * 1000,
            "stage": "start" if call.progress is None else call.progress.stage,
        }
        for call in list(_calls)[:most]
    ]
