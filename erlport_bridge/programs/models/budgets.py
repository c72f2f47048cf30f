"""Budgets: what a call, program, session or tenant may spend on models, and what it has spent.

A budget is checked before each request to a model, and what an answer cost is added when it has come. So requests that
are in flight when a budget is spent go beyond it, and nothing is asked afterwards. Cached answers cost nothing and are
given all the same.

A budget of several Pythons, such as that of a tenant, is kept by Elixir: each check and each answer is a round trip.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from erlport_bridge.counting import Spent
from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES, OPTIONS
from erlport_bridge.port import elixir
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.options import IntegerOption, NumberOption, Option, Vocabulary
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import current_progress
from erlport_bridge.term import shown
from erlport_bridge.threads import wait_for

# The largest integer of every JSON reader.
_MAX_TOKENS: Final = 2**53
_MAX_COST: Final = 1_000_000

#: The options that limit what may be spent.
BUDGET_OPTIONS: Final = Vocabulary(
    NumberOption(
        name="max_cost",
        minimum=0,
        maximum=_MAX_COST,
        description="the US dollars that may be spent on models; no request is made once they are spent",
    ),
    IntegerOption(
        name="max_tokens_total",
        minimum=0,
        maximum=_MAX_TOKENS,
        expected="a number of tokens from ",
        description="the tokens that models may use, of prompts and answers; no request is made once they are used",
    ),
)


# Whose budget it is that ends with its call. A batch in several Pythons shares it.
_OF_CALL: Final = "this call"


class BudgetLimits(NamedTuple):
    """What may be spent; ``None``: no limit."""

    max_cost: float | None = None
    max_tokens_total: int | None = None

    @classmethod
    def of(cls, read: Mapping[str, Any]) -> BudgetLimits:
        """Return the limits among options that were read by :data:`BUDGET_OPTIONS`."""
        return cls(read.get("max_cost"), read.get("max_tokens_total"))

    @property
    def are_set(self) -> bool:
        """Whether there is any limit."""
        return self != (None, None)


@dataclass(eq=False)
class Budget:
    """What may be spent by one call, program or session, and what has been.

    Attributes:
        of: Whose budget it is, for errors, such as ``session "user-42"``.
        limits: What may be spent.
        spent: What has been spent.
    """

    of: str
    limits: BudgetLimits = BudgetLimits()  # noqa: RUF009  # immutable
    spent: Spent = field(default_factory=Spent)

    _remedy: str = field(default="", init=False)

    def refusal(self) -> OperationError | None:
        """Return the error of a request that may not be made; ``None``: there is something left to spend."""
        max_cost, max_tokens = self.limits
        if max_cost is not None and self.spent.cost >= max_cost:
            what = f"{self.spent.cost:.6g} of {max_cost:.6g} US dollars (max_cost)"
            return self._error("max_cost", f"the budget of {self.of} is spent: {what}{self._remedy}")
        if max_tokens is not None and self.spent.tokens >= max_tokens:
            what = f"{self.spent.tokens} of {max_tokens} tokens (max_tokens_total)"
            return self._error("max_tokens_total", f"the budget of {self.of} is spent: {what}{self._remedy}")
        if max_cost is not None and self.spent.unpriced:
            reason = "an answer has no known price; use max_tokens_total"
            return self._error("max_cost", f"max_cost of {self.of} cannot be kept: {reason}")
        if max_tokens is not None and self.spent.uncounted:
            reason = "a provider has not said how many tokens an answer took"
            return self._error("max_tokens_total", f"max_tokens_total of {self.of} cannot be kept: {reason}")
        return None

    def describe(self) -> dict[str, Any]:
        """Return the limits, and what has been spent, as a term."""
        return {**self.limits._asdict(), "cost": self.spent.cost, "total_tokens": self.spent.tokens}

    async def check(self) -> OperationError | None:
        """Return the error of a request that may not be made, by what is known now."""
        return self.refusal()

    async def add(self, spent: Spent) -> None:
        """Add the cost and tokens of an answer."""
        self.spent.add(spent)

    def check_in_thread(self) -> OperationError | None:
        """Do what :meth:`check` does, from a thread that may wait."""
        return self.refusal()

    def add_in_thread(self, spent: Spent) -> None:
        """Do what :meth:`add` does, from a thread that may wait."""
        self.spent.add(spent)

    def _error(self, option: str, message: str) -> OperationError:
        return OperationError("budget", message, option=option, budget={"of": self.of, **self.describe()})


class SharedBudget(Budget):
    """A budget of several Pythons, which Elixir keeps; :attr:`spent` is what Elixir said last.

    Args:
        of: Whose budget it is.
        limits: What may be spent.
        callback_id: The id of the function of Elixir that adds what was spent, and returns what was spent in all.
    """

    def __init__(self, of: str, limits: BudgetLimits, callback_id: str) -> None:
        super().__init__(of, limits)
        self._callback_id = callback_id
        self._remedy = "" if of == _OF_CALL else "; reset_budget/3 begins it anew"

    async def check(self) -> OperationError | None:
        """Ask Elixir what has been spent."""
        await self.add(Spent())
        return self.refusal()

    async def add(self, spent: Spent) -> None:
        """Report to Elixir what an answer cost."""
        self._take(await elixir.call(*self._invocation(spent), is_seen=False))

    def check_in_thread(self) -> OperationError | None:
        """Ask Elixir what has been spent, from a thread."""
        self.add_in_thread(Spent())
        return self.refusal()

    def add_in_thread(self, spent: Spent) -> None:
        """Report to Elixir what an answer cost, from a thread."""
        self._take(wait_for(elixir.begin_call(*self._invocation(spent), is_seen=False)))

    def _invocation(self, spent: Spent) -> tuple[str, str, list[Any]]:
        given = {"cost": spent.cost, "tokens": spent.tokens, "unpriced": spent.unpriced, "uncounted": spent.uncounted}
        return callbacks.invocation(self._callback_id, given)

    def _take(self, answer: Any) -> None:
        self.spent = Spent(answer["tokens"], answer["cost"], answer["unpriced"], uncounted=answer["uncounted"])


class _SharedBudgetsOption(Option):
    """The budgets that Elixir keeps: a list of maps with ``of``, ``callback`` and limits."""

    def _read(self, value: object, path: str) -> tuple[SharedBudget, ...]:
        if not isinstance(value, list):
            raise OperationError("input", f"expected a list of budgets at {path}, got {shown(value)}", path=path)
        OPTIONS.check(len(value), path)
        return tuple(_read_shared(item, f"{path}[{index}]") for index, item in enumerate(value))

    def _type(self) -> dict[str, Any]:
        return {"type": "list[budget]"}


#: The option of calls that are a part of what spends a budget of Elixir.
SHARED_BUDGETS: Final = _SharedBudgetsOption(
    name="budgets", is_internal=True, description="the budgets that Elixir keeps, by functions"
)

_current: ContextVar[tuple[Budget, ...]] = ContextVar("budgets", default=())


def begin(limits: BudgetLimits, shared: Iterable[Budget] = ()) -> None:
    """Begin the budgets of a call: its own, and those that it shares with others; the context has no other ones."""
    _current.set((*([Budget(_OF_CALL, limits)] if limits.are_set else []), *shared))


def include(budget: Budget) -> None:
    """Charge what the current context asks to a further budget."""
    if budget not in _current.get():
        _current.set((*_current.get(), budget))


async def check(is_cached: Callable[[], Awaitable[bool]]) -> None:
    """Check before a request that each budget of the current context has something left.

    A request that is refused ends its call, also if the module would go on without the answer.

    Args:
        is_cached: Returns whether the answer comes from the cache; called only if a budget is spent.

    Raises:
        OperationError: Of kind ``budget``.
    """
    for budget in _current.get():
        refusal = await budget.check()
        if refusal is not None and not await is_cached():
            raise _ended_by(refusal)


def check_in_thread(is_cached: Callable[[], bool]) -> None:
    """Do what :func:`check` does, from a thread that may wait."""
    for budget in _current.get():
        refusal = budget.check_in_thread()
        if refusal is not None and not is_cached():
            raise _ended_by(refusal)


async def add(spent: Spent) -> None:
    """Add the cost and tokens of an answer to each budget of the current context."""
    for budget in _current.get():
        await budget.add(spent)


def add_in_thread(spent: Spent) -> None:
    """Do what :func:`add` does, from a thread that may wait."""
    for budget in _current.get():
        budget.add_in_thread(spent)


def _ended_by(refusal: OperationError) -> OperationError:
    progress = current_progress()
    if progress is not None:
        progress.end_with(refusal)
    return refusal


def _read_shared(value: object, path: str) -> SharedBudget:
    given = arguments.options(value, path)
    arguments.only(given, {*BUDGET_OPTIONS, "of", "callback"}, "key", path)
    limits = BudgetLimits.of(BUDGET_OPTIONS.read(given, path))
    of = arguments.text(given.get("of"), f"{path}.of")
    callback_id = arguments.text(given.get("callback"), f"{path}.callback", ID_BYTES)
    return SharedBudget(of, limits, callback_id)
