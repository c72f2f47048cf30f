"""Run predictions before any call, so that a first call takes no longer than later ones.

A first prediction takes three times as long as a second: DSPy, pydantic and asyncio build things when they are first
used, the interpreter adapts its bytecode, and a forked process copies each page of memory that it writes to. In a
template process this is done for all its workers, except for the pages; a spare has time for those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, cast

from erlport_bridge.operations.modules import execute_module
from erlport_bridge.operations.port_state import metrics
from erlport_bridge.programs.models import history
from erlport_bridge.tracing import exporting

_CALL: Final[tuple[Any, ...]] = (
    *("dspy.Predict", "question -> answer"),
    {"question": "Where?"},
    {"lm": {"provider": "embedded"}},
)
# The interpreter adapts the bytecode of a function that has been called some eight times.
_TIMES: Final = 16


def warm_up() -> None:
    """Run some predictions with the embedded model, which no counter, history or trace shows afterwards.

    The event loop is one of its own, which is closed then: a template process must have none.
    """
    asyncio.run(_predict())
    metrics.restart()
    history.forget()


async def _predict() -> None:
    # A template process must not start the thread that exports spans.
    exporting.is_wanted.set(False)
    for _ in range(_TIMES):
        await cast(Awaitable[Any], execute_module(*_CALL))
