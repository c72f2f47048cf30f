"""Where a request is at the moment, which is where the time went if its deadline comes.

DSPy would tell by callbacks; those take a quarter of a millisecond for each request, since they are told with all
arguments by name. So whatever takes long says so itself: models, tools and sandboxes.
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
    """Follows one request, in all its tasks and threads; made on the loop.

    Attributes:
        loop: The event loop on which it runs.
        thread_id: The loop's thread.
        queued: What waits for a thread, or for its turn.
    """

    def __init__(self) -> None:
        self._stages = ["module"]
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.queued = Waiting()

    @property
    def stage(self) -> str:
        """One of ``module``, ``model``, ``rate_limit``, ``tool``, ``sandbox``, ``queue``."""
        return "queue" if self.queued else self._stages[-1]

    def follow(self) -> None:
        """Follow what runs in this context, and in those that are copied from it."""
        _current.set(self)

    @contextlib.contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Be in a stage."""
        self._stages.append(stage)
        try:
            yield
        finally:
            # Not the last one: several attempts may run at the same time.
            self._stages.remove(stage)


def current_progress() -> Progress | None:
    """Give the progress of the request for which this runs."""
    return _current.get()


def within(stage: str) -> contextlib.AbstractContextManager[None]:
    """Have the request for which this runs, if any, be in a stage."""
    progress = _current.get()
    return contextlib.nullcontext() if progress is None else progress.within(stage)
