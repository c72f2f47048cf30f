"""Where a request is at the moment, which is where the time went if its deadline comes.

DSPy would tell by callbacks; those take a quarter of a millisecond for each request, since they are told with all
arguments by name. So whatever takes long says so itself: models (:class:`ObservedLM`), tools and sandboxes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import dspy

_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


class Progress:
    """Follows one request, in all its tasks and threads.

    Attributes:
        queued: What waits for a thread.
    """

    def __init__(self) -> None:
        self._stages = ["module"]
        self.queued: set[object] = set()

    @property
    def stage(self) -> str:
        """One of ``module``, ``model``, ``tool``, ``sandbox``, ``queue``."""
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


def within(stage: str) -> contextlib.AbstractContextManager[None]:
    """Have the request for which this runs, if any, be in a stage."""
    progress = _current.get()
    return contextlib.nullcontext() if progress is None else progress.within(stage)


class ObservedLM(dspy.LM):  # type: ignore[misc]
    """A language model whose requests are the stage ``model``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the model."""
        with within("model"):
            return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the model from a task."""
        with within("model"):
            return await super().acall(*args, **kwargs)


def is_parse_error(error: BaseException) -> bool:
    """Tell whether an exception, of whatever class, was raised while an adapter read the model's text."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "parse" and isinstance(frame.f_locals.get("self"), dspy.Adapter):
            return True
        traceback = traceback.tb_next
    return False
