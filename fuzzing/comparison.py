"""Whether two decoded terms are the same: not equal, the same.

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
    """Say whether two terms are of the same types and values at every depth, maps in the same order.

    It keeps its own stack: terms nest deeper than Python's recursion goes.
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
        if kind in _SETS:  # two equal sets may be walked in different orders
            others = _in_order_of(children, others)
        pairs.extend(zip(children, others, strict=True))
    return True


def _children(term: Term) -> list[Term] | None:
    """Give what stands in a container, or ``None`` for what is none."""
    kind = type(term)
    if kind in _SEQUENCES or kind in _SETS:
        return list(term)
    if kind in _MAPS:
        return [*term.keys(), *term.values()]
    if kind is ImproperList:
        return [*term.items, term.tail]
    return None


def _in_order_of(members: Iterable[Term], others: Iterable[Term]) -> list[Term]:
    """Give those of ``others`` that are equal to ``members``, in their order; equal ones may be of other types."""
    found = {other: other for other in others}
    return [found.pop(member) for member in members if member in found] + list(found)


def _facts(term: Term) -> object:
    """Give what tells a value without children from all others of its class."""
    if isinstance(term, float):
        return struct.pack(">d", term)
    if isinstance(term, range):
        return term.start, term.stop, term.step
    # Those of erlang-py, dates and decimals show all they have, but for the digits of microseconds.
    return repr(term), getattr(term, "precision", None)
