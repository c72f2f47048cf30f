"""What a call asked of models, and what came of it: cost, answers of the cache, models that failed.

Kept for each call from :func:`open_account` on, in all its tasks and threads.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from erlport_bridge.errors import details

_current: ContextVar[ModelAccount | None] = ContextVar("model_account", default=None)

#: What of a failure's details stands in the account.
_FAILURE_KEYS: Final = ("kind", "message", "status", "retry_after")


class ModelAccount:
    """Filled on the event loop."""

    def __init__(self) -> None:
        self._costs: list[float | None] = []
        self._cache_hits = 0
        self._failed: list[dict[str, Any]] = []
        self._answered_for: dict[str, str] = {}

    def add_answer(self, asked: str, answered: str, cost: float | None, *, is_cached: bool) -> None:
        """Note an answer.

        Args:
            asked: The model that was to give it.
            answered: The one that did.
            cost: In US dollars; ``None``: nobody knows.
            is_cached: It was asked earlier, and costs nothing.
        """
        self._answered_for[asked] = answered
        self._costs.append(0.0 if is_cached else cost)
        self._cache_hits += is_cached

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
        known = [cost for cost in self._costs if cost is not None]
        return {
            "cost": sum(known) if known and len(known) == len(self._costs) else None,
            "cache_hits": self._cache_hits,
            "failed_models": self._failed,
        }


def open_account() -> ModelAccount:
    """Begin the account of what runs in this context, and in those that are copied from it."""
    account = ModelAccount()
    _current.set(account)
    return account


def current_account() -> ModelAccount:
    """Give the account of the call for which this runs; one that nobody reads if there is none."""
    return _current.get() or ModelAccount()
