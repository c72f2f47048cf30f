"""Track the stage of a request: at its deadline, the stage says where the time went.

DSPy's callbacks could report the stage. But they take a quarter of a millisecond for each request, because they get all
arguments by name. So models, tools and sandboxes, which may take long, report their stage themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from erlport_bridge.request.context import Waiting

_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


class Progress:
    """The progress of one request, in all its tasks and threads; must be created on the event loop.

    Attributes:
        loop: The event loop on which the request runs.
        thread_id: The id of the loop's thread.
        queued: The items that wait for a thread, or for their turn.
    """

    def __init__(self) -> None:
        self._stages = ["module"]
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.queued = Waiting()

    @property
    def stage(self) -> str:
        """Return the stage: ``module``, ``model``, ``rate_limit``, ``tool``, ``sandbox`` or ``queue``."""
        return "queue" if self.queued else self._stages[-1]

    def follow(self) -> None:
        """Make this the progress of the current context, and of contexts that are copied from it."""
        _current.set(self)

    @contextlib.contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Enter a stage for the ``with`` block."""
        self._stages.append(stage)
        try:
            yield
        finally:
            # Not `pop`: several attempts may run at the same time, each in a stage.
            self._stages.remove(stage)


def current_progress() -> Progress | None:
    """Return the progress of the request that the current code runs for, or ``None``."""
    return _current.get()


def within(stage: str) -> contextlib.AbstractContextManager[None]:
    """Enter a stage of the current request, if any, for the ``with`` block."""
    progress = _current.get()
    return contextlib.nullcontext() if progress is None else progress.within(stage)
