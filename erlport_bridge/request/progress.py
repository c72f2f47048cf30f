"""Track the stage of a request: at its deadline, the stage says where the time went.

DSPy's callbacks could report the stage. But they take a quarter of a millisecond for each request, because they get all
arguments by name. So models, tools and sandboxes, which may take long, report their stage themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from erlport_bridge.request import eager_tasks, running
from erlport_bridge.request.context import Waiting

_Result = TypeVar("_Result")

_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


class Progress:
    """The progress of one request, in all its tasks and threads; must be created on the event loop.

    Attributes:
        loop: The event loop on which the request runs.
        thread_id: The id of the loop's thread.
        queued: The items that wait for a thread, or for their turn.
        failure: The failure of the last request to a model, as long as no later request has succeeded.
    """

    def __init__(self) -> None:
        self._stages = ["module"]
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.queued = Waiting()
        self.failure: Exception | None = None
        # Resolves when the request ends: with the error that ends it before its work has ended, or with `None`.
        self._ended: asyncio.Future[BaseException | None] = self.loop.create_future()
        self._ends_at: float | None = None

    def end_after(self, timeout_s: float | None) -> None:
        """Set the deadline of the request; ``None``: it has none."""
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    def end_with(self, error: Exception) -> None:
        """End the request with an error, whatever its work makes of it; to be called on the event loop."""
        self._end(error)

    def begin(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Begin the work of the request; the last step of the returned task tells :meth:`end_of`.

        The callback of a task runs a turn of the loop after its last step, and who waits for that another one later.
        """
        return eager_tasks.begin(self._until_end(work), self.loop)

    async def _until_end(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            return await work
        except (KeyboardInterrupt, SystemExit) as error:
            # A task would raise these into its loop too. `end_of` returns the error, so that no result is asked for.
            self._end(error)
            return None  # type: ignore[return-value]
        finally:
            self._end(None)

    async def end_of(self, work: asyncio.Future[Any]) -> BaseException | None:
        """Wait until some work, or the time for it, or the request has ended; return the error that ended the request.

        The time is what is left of that of :meth:`end_after`: the first step of the work may have taken long.

        Not ``wait_for``, which waits until work that it has cancelled has ended: that would exceed the deadline. And
        not ``wait``, which takes three times as long.
        """
        if self._ended.done():
            return self._ended.result()
        work.add_done_callback(self._note_end)
        left_s = self.left_s()
        timer = None if left_s is None else self.loop.call_later(max(0.0, left_s), self._end, None)
        try:
            return await self._ended
        finally:
            if timer is not None:
                timer.cancel()

    def _note_end(self, _work: asyncio.Future[Any]) -> None:
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    def left_s(self) -> float | None:
        """Return the seconds until the deadline; ``None``: there is none."""
        return None if self._ends_at is None else self._ends_at - time.monotonic()

    @property
    def stage(self) -> str:
        """Return the stage: ``module``, ``model``, ``rate_limit``, ``tool``, ``sandbox`` or ``queue``."""
        return "queue" if self.queued else self._stages[-1]

    def follow(self) -> None:
        """Make this the progress of the current context, and of contexts that are copied from it."""
        _current.set(self)
        call = running.current.get()
        if call is not None:
            call.progress = self

    def within(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Enter a stage for the ``with`` block."""
        return _Stage(self._stages, stage)


class _Stage:
    """The ``with`` block of a stage; a class, because a generator takes four times as long."""

    def __init__(self, stages: list[str], stage: str) -> None:
        self._stages = stages
        self._stage = stage

    def __enter__(self) -> None:
        self._stages.append(self._stage)

    def __exit__(self, *_raised: object) -> None:
        # Not `pop`: several attempts may run at the same time, each in a stage.
        self._stages.remove(self._stage)


def current_progress() -> Progress | None:
    """Return the progress of the request that the current code runs for, or ``None``."""
    return _current.get()


def within(stage: str) -> contextlib.AbstractContextManager[None]:
    """Enter a stage of the current request, if any, for the ``with`` block."""
    progress = _current.get()
    return contextlib.nullcontext() if progress is None else progress.within(stage)
