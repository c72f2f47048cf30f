"""Keep what models answer to a long piece of work, so that its repetition goes on from there and pays for none twice.

A request is known by its hash and by how many equal ones came before it: an optimizer that asks the same thing several
times wants several answers.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import dspy
from dspy.clients.call_result import CallResult
from dspy.clients.execution import IGNORED_CACHE_KEYS

from erlport_bridge.errors import OperationError
from erlport_bridge.request import Assigned, weight

if TYPE_CHECKING:
    import contextlib

_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Where answers are kept, as plain data."""

    async def find(self, request: str, number: int) -> Mapping[str, Any] | None:
        """Return an answer; ``None``: there is none."""

    async def keep(self, request: str, number: int, answer: Mapping[str, Any]) -> None:
        """Keep an answer."""


class KeptAnswers:
    """The answers to the requests of one piece of work.

    Args:
        keeper: Where they are kept.
        has_some: Whether there may be answers from before.

    Attributes:
        found: How many requests were answered from there.
        failure: Why no more answers are kept; the work goes on without.
    """

    def __init__(self, keeper: Keeper, *, has_some: bool) -> None:
        self._keeper = keeper
        self._has_some = has_some
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.found = 0
        self.failure: OperationError | None = None

    async def place(self, model: str, call: Any, lm: dspy.LM) -> tuple[str, int]:
        """Return the place of a request: its hash, and the number of equal ones before it."""
        request = await weight.to_thread(
            dspy.cache.cache_key, {"model": model, **call.key(lm, True)}, IGNORED_CACHE_KEYS
        )
        with self._lock:
            number = self._counts[request]
            self._counts[request] += 1
        return request, number

    async def find(self, place: tuple[str, int]) -> Any:
        """Return DSPy's result of an earlier request, as one that costs nothing; ``None``: there is none."""
        if not self._has_some or self.failure is not None:
            return None
        try:
            record = await self._keeper.find(*place)
        except OperationError as error:
            self._give_up(error)
            return None
        if record is None:
            return None
        self.found += 1
        return CallResult.load(record)

    async def keep(self, place: tuple[str, int], result: Any) -> None:
        """Keep DSPy's result of a request."""
        if self.failure is None and not result.cache_hit:
            try:
                await self._keeper.keep(*place, result.dump())
            except OperationError as error:
                self._give_up(error)

    def _give_up(self, error: OperationError) -> None:
        if self.failure is None:
            self.failure = error
            _log.warning("what models answer is not kept any more: %s", error.message)


_kept: ContextVar[KeptAnswers | None] = ContextVar("kept", default=None)


def current() -> KeptAnswers | None:
    """Return where the answers to the running work are kept, if they are."""
    return _kept.get()


def keeping(kept: KeptAnswers | None) -> contextlib.AbstractContextManager[None]:
    """Keep the answers to requests within the ``with`` block; ``None``: do not."""
    return Assigned(_kept, kept)
