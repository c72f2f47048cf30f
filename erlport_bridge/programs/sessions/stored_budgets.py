"""Keep in the store what sessions and programs with a budget have spent, for all processes that have the store."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from erlport_bridge.counting import Spent
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import Budget
from erlport_bridge.store import SpentRow, Store

if TYPE_CHECKING:
    from erlport_bridge.store import Rows

_log = logging.getLogger(__name__)

#: Whose budget it is.
SESSION: Final = "session"
PROGRAM: Final = "program"


class StoredBudget(Budget):
    """A budget whose spending is in the store. Each check reads it, and each answer adds to it by one statement.

    Args:
        store: The store.
        owner: What spends it, and its id.
        budget: The budget in the registry, which shows the sum.
    """

    def __init__(self, store: Store, owner: tuple[str, str], budget: Budget) -> None:
        super().__init__(budget.of, budget.limits, budget.spent)
        self._store = store
        self._owner = owner
        # What this process has spent and the store does not know: before there was a limit, or while the store failed.
        self._unstored = replace(budget.spent)

    async def check(self) -> OperationError | None:
        """Read what all processes have spent, and return the error of a request that may not be made."""
        self._take(await self._store.read(self._read))
        return self.refusal()

    async def add(self, spent: Spent) -> None:
        """Add the cost and tokens of an answer."""
        with self._adding(spent) as spend:
            self._take(await self._store.change(spend))

    def check_in_thread(self) -> OperationError | None:
        """Do what :meth:`check` does, from a thread that may wait."""
        self._take(self._store.read_in_thread(self._read))
        return self.refusal()

    def add_in_thread(self, spent: Spent) -> None:
        """Do what :meth:`add` does, from a thread that may wait."""
        with self._adding(spent) as spend:
            self._take(self._store.change_in_thread(spend))

    def _read(self, rows: Rows) -> SpentRow:
        return rows.spent(*self._owner)

    @contextlib.contextmanager
    def _adding(self, spent: Spent) -> Iterator[Callable[[Rows], SpentRow]]:
        """Yield what adds an answer in the store. It has been paid: if the store fails, the next answer adds it too."""
        adding, self._unstored = self._unstored, Spent()
        adding.add(spent)
        row = SpentRow(adding.cost, adding.tokens, adding.unpriced, adding.uncounted)
        try:
            yield lambda rows: rows.spend(*self._owner, row)
        except OperationError as error:
            self._unstored.add(adding)
            self.spent.add(spent)
            _log.warning("what %s has spent is not in the store yet: %s", self.of, error.message)
        except BaseException:
            self._unstored.add(adding)
            raise

    def _take(self, stored: SpentRow) -> None:
        # The registry has the same object.
        self.spent.cost = stored.cost + self._unstored.cost
        self.spent.tokens = stored.tokens + self._unstored.tokens
        self.spent.unpriced = stored.unpriced + self._unstored.unpriced
        self.spent.uncounted = stored.uncounted + self._unstored.uncounted


class StoredBudgets:
    """The budgets of a port: those with limits are kept in its store, if it has one.

    Args:
        store: The store; ``None``: each budget is all there is.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._known: WeakKeyDictionary[Budget, StoredBudget] = WeakKeyDictionary()

    def of(self, kind: str, owner_id: str, budget: Budget) -> Budget:
        """Return the budget that pays for the calls of a session or program.

        Args:
            kind: :data:`SESSION` or :data:`PROGRAM`.
            owner_id: Its id.
            budget: Its budget in the registry.
        """
        if self._store is None or not budget.limits.are_set:
            return budget
        known = self._known.get(budget)
        if known is None:
            known = self._known[budget] = StoredBudget(self._store, (kind, owner_id), budget)
        known.limits = budget.limits
        return known
