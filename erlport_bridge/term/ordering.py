"""Sort the maps of Elixir, so that they have the same order on every node.

A map of Elixir has no order: from OTP 26 on its keys come in an order that the node makes, and that changes from one
start to the next. In Python a dict has an order, which prompts, cache keys and stored programs show. So the keys of
what came from Elixir are sorted. A keyword list keeps its order, and so does an object of JSON text
(:class:`OrderedMap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from erlport_bridge.term.inspecting import shown
from erlport_bridge.term.types import Term


class OrderedMap(dict[Any, Any]):
    """A map whose order its sender has chosen, such as that of an object in JSON text; :func:`sort_maps` keeps it."""

    __slots__ = ()


def sort_maps(terms: Iterable[Term]) -> None:
    """Sort the keys of every map in ``terms``, at every depth and in place; equal terms have equal orders then."""
    waiting = [term for term in terms if isinstance(term, _CONTAINERS)]
    while waiting:
        term = waiting.pop()
        if type(term) is dict and len(term) > 1:
            keys = list(term)
            if keys != (in_order := sorted_keys(keys)):
                entries = [(key, term[key]) for key in in_order]
                term.clear()
                term.update(entries)
        items = term.values() if isinstance(term, dict) else term
        # Most are texts, whose type is found at once.
        waiting.extend([item for item in items if type(item) not in _FLAT and isinstance(item, _CONTAINERS)])


_CONTAINERS = (dict, list, tuple)
_FLAT = frozenset({str, bytes, int, float, bool, type(None)})


def sorted_items(found: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the entries of a map, sorted by their keys; those of an :class:`OrderedMap` in its own order."""
    if isinstance(found, OrderedMap):
        return list(found.items())
    return [(key, found[key]) for key in sorted_keys(found)]


def sorted_keys(keys: Iterable[Any]) -> list[Any]:
    """Return the keys of a map, or the elements of a set, in the order of Erlang's terms as far as Python has them.

    >>> sorted_keys([Ellipsis, "b", 10, "a", 9])
    [9, 10, 'a', 'b', Ellipsis]
    """
    keys = list(keys)
    try:
        return sorted(keys)  # the usual case: all are text, or all are numbers
    except TypeError:
        return sorted(keys, key=_rank)


def _rank(key: object) -> tuple[int, float, str]:
    if isinstance(key, int | float):
        return 0, key, ""
    return (1, 0, key) if isinstance(key, str) else (2, 0, shown(key))
