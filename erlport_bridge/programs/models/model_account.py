"""What a call asked of models, and what came of it: cost, answers of the cache, models that failed.

Kept for each call from :meth:`ModelAccount.follow` on, in all its tasks and threads.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from erlport_bridge.counting import PORT_COUNTERS, Spent
from erlport_bridge.errors import details, kind_of

_current: ContextVar[ModelAccount | None] = ContextVar("model_account", default=None)

#: What of a failure's details stands in the account.
_FAILURE_KEYS: Final = ("kind", "message", "status", "retry_after")


class ModelAccount:
    """Filled on the event loop.

    Attributes:
        spent: What all answers cost.
    """

    def __init__(self) -> None:
        self.spent = Spent()
        self._answers = 0
        self._failed: list[dict[str, Any]] = []
        self._answered_for: dict[str, str] = {}

    def follow(self) -> None:
        """Keep account of what runs in this context, and in those that are copied from it."""
        _current.set(self)

    def add_answer(self, asked: str, answered: str, spent: Spent) -> None:
        """Note that the model ``answered`` has given what ``asked`` was asked for, and what it cost."""
        self._answered_for[asked] = answered
        self._answers += 1
        self.spent.add(spent)

    def add_failure(self, model: str, error: Exception) -> None:
        """Note that another model was asked, as this one failed."""
        found = details(error)
        # What follows in a message of DSPy's is advice to whoever must deal with it, and here the next model has.
        found["message"] = found["message"].partition("\n")[0]
        self._failed.append({"model": model, **{key: found[key] for key in _FAILURE_KEYS if key in found}})

    def answered_for(self, asked: str) -> str:
        """Give the model that answered last when ``asked`` was asked."""
        return self._answered_for.get(asked, asked)

    def describe(self) -> dict[str, Any]:
        """Give ``cost`` (``None``: of some answer nobody knows it), ``cache_hits`` and ``failed_models``."""
        return {
            "cost": self.spent.cost if self._answers and not self.spent.unpriced else None,
            "cache_hits": self.spent.cache_hits,
            "failed_models": self._failed,
        }


class Asking:
    """One request to a model, counted while it is entered.

    Args:
        asked: The model that was to answer.
        model: The one that is asked.
        is_limited: It has to wait for a limit first, until :meth:`passed_limit`.
    """

    def __init__(self, asked: str, model: str, *, is_limited: bool = False) -> None:
        self._asked = asked
        self._model = model
        self._is_waiting = is_limited
        self._queued_s: float | None = None
        self._spent = Spent()

    def __enter__(self) -> Asking:
        self._running = PORT_COUNTERS.begin("models", self._model)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._is_waiting:
            self.passed_limit()
        kind = None if error is None else kind_of(error)
        PORT_COUNTERS.end(self._running, kind=kind, queued_s=self._queued_s, spent=self._spent)

    def passed_limit(self) -> None:
        """Note that it has waited until now."""
        self._is_waiting = False
        self._queued_s = time.monotonic() - self._running.started_at

    def answered(self, result: Any) -> None:
        """Note DSPy's result, also in the account of the call for which this runs."""
        tokens = (result.usage or {}).get("total_tokens")
        self._spent.add_answer(tokens, result.cost, is_cached=result.cache_hit)
        current_account().add_answer(self._asked, self._model, self._spent)


def current_account() -> ModelAccount:
    """Give the account of the call for which this runs; one that nobody reads if there is none."""
    return _current.get() or ModelAccount()
