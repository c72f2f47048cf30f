"""Serve the items of callers in turn: a caller with thousands of items delays another by one item at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class FairQueue(Generic[_Item]):
    """The waiting items of all callers. Not thread-safe.

    A caller is any text that names who waits; ``None`` stands for all that have no name. The items of one caller are
    served in their order.
    """

    def __init__(self) -> None:
        # The caller whose turn is next comes first.
        self._waiting: dict[str | None, deque[_Item]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, caller: str | None, item: _Item) -> None:
        """Add an item of a caller, behind the caller's other items."""
        self._waiting.setdefault(caller, deque()).append(item)
        self._count += 1

    def put_back(self, caller: str | None, item: _Item) -> None:
        """Add an item that was taken and could not be served; it is the next one."""
        self._waiting = {caller: deque([item, *self._waiting.pop(caller, ())]), **self._waiting}
        self._count += 1

    def take(self) -> _Item:
        """Remove the next item and return it; the queue must not be empty."""
        caller = next(iter(self._waiting))
        items = self._waiting.pop(caller)
        item = items.popleft()
        if items:
            # After all others.
            self._waiting[caller] = items
        self._count -= 1
        return item

    def remove(self, caller: str | None, item: _Item) -> bool:
        """Remove an item; return ``False`` if it does not wait."""
        items = self._waiting.get(caller)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._waiting[caller]
        self._count -= 1
        return True

    def make_room_for(self, caller: str | None) -> _Item | None:
        """Remove the last item of the caller with the most items, if that is fairer than to refuse ``caller``.

        Returns:
            The removed item; ``None``: no other caller has at least two items more than ``caller``.
        """
        longest = max(self._waiting, key=lambda one: len(self._waiting[one]), default=caller)
        if longest == caller or len(self._waiting[longest]) < len(self._waiting.get(caller, ())) + 2:
            return None
        self._count -= 1
        return self._waiting[longest].pop()

    def ahead_of(self, caller: str | None) -> Iterator[_Item]:
        """Yield the items that would be served before another item of ``caller``."""
        own = self._waiting.get(caller, ())
        yield from own
        # The others have one item for each of the caller's own, and one for the new item.
        for one, items in self._waiting.items():
            if one != caller:
                for item, _ in zip(items, range(len(own) + 1), strict=False):
                    yield item

    def in_order(self) -> Iterator[_Item]:
        """Yield all items in the order in which they would be served."""
        waiting = [iter(items) for items in self._waiting.values()]
        while waiting:
            left = []
            for items in waiting:
                for item in items:
                    yield item
                    left.append(items)
                    break
            waiting = left
