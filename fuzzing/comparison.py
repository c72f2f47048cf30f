"""Compare decoded terms by identity of terms, which is stricter than equality in Python.

In Python ``1 == True == 1.0``, ``0.0 == -0.0`` and ``Atom("a") == "a"``; in Erlang these are different terms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from erlport_bridge.term import Atom, FrozenList, FrozenMap, ImproperList, Term

_EQUAL_IS_SAME = frozenset({int, str, bytes, bool, type(None), Atom})
_SEQUENCES = frozenset({list, tuple, FrozenList})
_MAPS = frozenset({dict, FrozenMap})
_SETS = frozenset({set, frozenset})


def same_term(left: Term, right: Term) -> bool:
    """Return whether two terms have the same types and values at every depth, maps in the same order.

    It keeps its own stack, because terms nest deeper than Python's recursion limit.
    """
    pairs: list[tuple[Term, Term]] = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        kind = type(one)
        if kind is not type(other):
            return False
        if kind in _EQUAL_IS_SAME:
            if one != other:
                return False
            continue
        children, others = _children(one), _children(other)
        if children is None or others is None:
            if _facts(one) != _facts(other):
                return False
            continue
        if len(children) != len(others):
            return False
        if kind in _SETS:  # two equal sets may have different orders of iteration
            others = _in_order_of(children, others)
        pairs.extend(zip(children, others, strict=True))
    return True


def _children(term: Term) -> list[Term] | None:
    """Return the children of a container, or ``None`` if the term is no container."""
    kind = type(term)
    if kind in _SEQUENCES or kind in _SETS:
        return list(term)
    if kind in _MAPS:
        return [*term.keys(), *term.values()]
    if kind is ImproperList:
        return [*term.items, term.tail]
    return None


def _in_order_of(members: Iterable[Term], others: Iterable[Term]) -> list[Term]:
    """Return ``others`` in the order of the equal ``members``, which may be of other types; unequal ones come last."""
    found = {other: other for other in others}
    return [found.pop(member) for member in members if member in found] + list(found)


def _facts(term: Term) -> object:
    """Return facts that distinguish a value without children from all other values of its class."""
    if isinstance(term, float):
        return struct.pack(">d", term)
    if isinstance(term, range):
        return term.start, term.stop, term.step
    # The repr of erlang-py's classes, dates and decimals holds all their facts, except the precision of microseconds.
    return repr(term), getattr(term, "precision", None)
