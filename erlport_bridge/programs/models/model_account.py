"""The account of a call's requests to language models: cost, tokens, cache hits and failed models.

A call has one account, for all its tasks and threads, from :meth:`ModelAccount.follow` on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from dspy.utils.usage_tracker import UsageTracker

from erlport_bridge.counting import PORT_COUNTERS, Spent
from erlport_bridge.errors import details, kind_of

_current: ContextVar[ModelAccount | None] = ContextVar("model_account", default=None)

#: The keys of an error's details that the account keeps of a failure.
_FAILURE_KEYS: Final = ("kind", "message", "status", "retry_after")


class ModelAccount:
    """The account of one call; modified on the event loop only.

    Attributes:
        spent: The cost and usage of all answers.
        warnings: One sentence for each answer that did not end in the ordinary way.
    """

    def __init__(self) -> None:
        self.spent = Spent()
        self._usage = UsageTracker()
        self._answers = 0
        self._failed: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._answered_for: dict[str, str] = {}

    def follow(self) -> None:
        """Make this the account of the current context, and of contexts copied from it."""
        _current.set(self)

    def add_answer(self, asked: str, answered: str, spent: Spent, usage: Mapping[str, Any]) -> None:
        """Add the answer of the model ``answered`` to a request to the model ``asked``, with its cost and usage."""
        self._usage.add_usage(answered, dict(usage))
        self._answered_for[asked] = answered
        self._answers += 1
        self.spent.add(spent)

    def add_failure(self, model: str, error: Exception) -> None:
        """Add the failure of a model after which a fallback model was asked."""
        found = details(error)
        # Drop DSPy's advice after the first line: the fallback model has resolved the failure.
        found["message"] = found["message"].partition("\n")[0]
        self._failed.append({"model": model, **{key: found[key] for key in _FAILURE_KEYS if key in found}})

    def add_warnings(self, warnings: Iterable[str]) -> None:
        """Add sentences about answers; each sentence once."""
        self.warnings += [text for text in dict.fromkeys(warnings) if text not in self.warnings]

    def usage(self) -> dict[str, Any]:
        """Return the usage of all answers by model, as in the metadata of a prediction."""
        return dict(self._usage.get_total_tokens())

    def answered_for(self, asked: str) -> str:
        """Return the model that gave the last answer to a request to the model ``asked``."""
        return self._answered_for.get(asked, asked)

    def describe(self) -> dict[str, Any]:
        """Return ``cost`` (``None`` if the cost of any answer is unknown), ``cache_hits`` and ``failed_models``."""
        return {
            "cost": self.spent.cost if self._answers and not self.spent.unpriced else None,
            "cache_hits": self.spent.cache_hits,
            "failed_models": self._failed,
        }


class ModelRequest:
    """One request to a model, counted as running within the ``with`` block.

    Args:
        asked: The model that the caller named.
        model: The model that gets the request: ``asked`` or one of its fallback models.
        is_limited: Whether the request first waits for a rate limit, until :meth:`passed_limit`.
    """

    def __init__(self, asked: str, model: str, *, is_limited: bool = False) -> None:
        self._asked = asked
        self._model = model
        self._is_waiting = is_limited
        self._queued_s: float | None = None
        self._spent = Spent()

    def __enter__(self) -> ModelRequest:
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
        """Record that the request waited for its rate limit until now."""
        self._is_waiting = False
        self._queued_s = time.monotonic() - self._running.started_at

    def answered(self, result: Any) -> None:
        """Record DSPy's result, here and in the account of the current call."""
        tokens = (result.usage or {}).get("total_tokens")
        self._spent.add_answer(tokens, result.cost, is_cached=result.cache_hit)
        current_account().add_answer(
            self._asked, self._model, self._spent, {} if result.cache_hit else result.usage or {}
        )


def current_account() -> ModelAccount:
    """Return the account of the current call, or a new account that nobody reads if there is no call."""
    return _current.get() or ModelAccount()
