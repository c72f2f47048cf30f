"""The account of a call's requests to language models: cost, tokens, cache hits and failed models.

A call has one account, for all its tasks and threads, from :meth:`ModelAccount.follow` on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from dspy.utils.usage_tracker import UsageTracker

from erlport_bridge.counting import PORT_COUNTERS, Spent
from erlport_bridge.errors import cause_of, kind_of, note_paid
from erlport_bridge.programs.models import model_spans

_current: ContextVar[ModelAccount | None] = ContextVar("model_account", default=None)


class ModelAccount:
    """The account of one call; modified on the event loop only.

    Attributes:
        spent: The cost and usage of all answers.
        warnings: One sentence for each answer that did not end in the ordinary way.
        has_asked: Whether any model was asked.
    """

    def __init__(self) -> None:
        self.spent = Spent()
        self.has_asked = False
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
        # The last answer last.
        self._answered_for.pop(asked, None)
        self._answered_for[asked] = answered
        self._answers += 1
        self.spent.add(spent)

    def add_failure(self, model: str, error: Exception) -> None:
        """Add the failure of a model after which a fallback model was asked."""
        self._failed.append({"model": model, **cause_of(error)})

    def add_warnings(self, warnings: Iterable[str]) -> None:
        """Add sentences about answers; each sentence once."""
        self.warnings += [text for text in dict.fromkeys(warnings) if text not in self.warnings]

    def usage(self) -> dict[str, Any]:
        """Return the usage of all answers by model, as in the metadata of a prediction."""
        return dict(self._usage.get_total_tokens())

    def note_paid(self, error: BaseException, before: Mapping[str, Any] | None = None) -> None:
        """Add to an error of the call what was paid before it, if a model was asked.

        Args:
            error: The error.
            before: The metadata of a prediction that was paid for before this account began.
        """
        usage, cost = self.usage(), self.describe()["cost"]
        if before is not None:
            usage = added_usage(before["usage"], usage)
            costs = [before["cost"], *([cost] if self.has_asked else [])]
            cost = None if None in costs else sum(costs)
        if self.has_asked or usage:
            note_paid(error, usage, cost)

    def last_answered(self, asked: Collection[str]) -> str | None:
        """Return the model that gave the last answer to a request to one of the models ``asked``, if there was one."""
        return next((answered for name, answered in reversed(self._answered_for.items()) if name in asked), None)

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
        is_local: Whether the model runs in this process or in Elixir, and says itself what it costs.
        sent: What is sent, the messages or a prompt, for the trace of the call.
    """

    def __init__(
        self, asked: str, model: str, *, is_limited: bool = False, is_local: bool = False, sent: Any = None
    ) -> None:
        self._asked = asked
        self._traced = model_spans.request(asked, model, sent)
        self._model = model
        self._is_waiting = is_limited
        self._is_local = is_local
        self._queued_s: float | None = None
        self._spent = Spent()

    def __enter__(self) -> ModelRequest:
        self._running = PORT_COUNTERS.begin("models", self._model)
        self._span = self._traced.__enter__()
        return self

    def __exit__(
        self, raised: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._traced.__exit__(raised, error, traceback)
        if self._is_waiting:
            self.passed_limit()
        kind = None if error is None else kind_of(error)
        PORT_COUNTERS.end(self._running, kind=kind, queued_s=self._queued_s, spent=self._spent)

    def passed_limit(self) -> None:
        """Record that the request waited for its rate limit until now."""
        self._is_waiting = False
        self._queued_s = time.monotonic() - self._running.started_at
        if self._span is not None:
            self._span.set(queue_us=self._span.since_start_us())

    def is_sent(self) -> None:
        """Record that the model is asked now."""
        current_account().has_asked = True

    def answered(self, result: Any) -> None:
        """Record DSPy's result, here and in the account of the current call."""
        tokens = (result.usage or {}).get("total_tokens")
        self._spent.add_answer(tokens, result.cost, is_cached=result.cache_hit)
        if self._span is not None:
            model_spans.answered(self._span, result)
        current_account().add_answer(
            self._asked, self._model, self._spent, {} if result.cache_hit else result.usage or {}
        )

    def paid(self) -> Spent:
        """Return the cost and tokens of the answer for budgets."""
        spent = self._spent
        return Spent(spent.tokens, spent.cost, cache_hits=spent.cache_hits) if self._is_local else spent


def added_usage(usage: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sum of two usages in DSPy's form: numbers by name, in maps by model."""
    added = dict(usage)
    for name, value in other.items():
        if isinstance(value, Mapping):
            added[name] = added_usage(added.get(name) or {}, value)
        elif isinstance(value, int | float):
            added[name] = (added.get(name) or 0) + value
    return added


def current_account() -> ModelAccount:
    """Return the account of the current call, or a new account that nobody reads if there is no call."""
    return _current.get() or ModelAccount()
