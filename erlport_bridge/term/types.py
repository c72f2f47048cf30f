"""Define Python classes for the Erlang terms that have no counterpart in Python.

===========================================  =====================================================================
Erlang                                       Python
===========================================  =====================================================================
atom (not ``nil``, ``true``, ``false``)      :class:`Atom`
improper list                                :class:`ImproperList`
list, map, MapSet inside a map key           :class:`FrozenList`, :class:`FrozenMap`, ``frozenset``
pid, port, reference, fun, bitstring         ``OtpErlangPid`` … of erlang-py, whose ``binary()`` returns every byte
===========================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

from erlang import OtpErlangBinary, OtpErlangFunction, OtpErlangPid, OtpErlangPort, OtpErlangReference

from erlport_bridge.term.inspecting import shown

__all__ = [
    "MAX_ATOM_CHARACTERS",
    "MAX_DEPTH",
    "MAX_KEY_DEPTH",
    "Atom",
    "FrozenList",
    "FrozenMap",
    "ImproperList",
    "OtpErlangBinary",
    "OtpErlangFunction",
    "OtpErlangPid",
    "OtpErlangPort",
    "OtpErlangReference",
    "Term",
    "freeze",
]

#: Any value that the table in ``docs/architecture.md`` names. Python has no recursive type that mypy could check here.
Term: TypeAlias = Any

#: The BEAM's own limit: it refuses a whole frame that holds a longer atom.
MAX_ATOM_CHARACTERS: Final = 255

#: How many lists, tuples and maps may stand inside one another. Far beyond any data that a program means to send, and
#: small enough that Python can compare and print a decoded term, which it does by recursion.
MAX_DEPTH: Final = 512

#: Deepest nesting of a map key. Python hashes a tuple by recursion in C, without a guard: a key that nests 100,000 deep
#: would crash the process. No program is known to come near this limit.
MAX_KEY_DEPTH: Final = 64


def _is_same(self: Any, other: object) -> Any:
    return self.binary() == other.binary() if isinstance(other, type(self)) else NotImplemented


# Those of erlang-py raise AttributeError for an `other` of any other kind: `term == "text"`, `term in ["text"]`.
for _kind in (OtpErlangBinary, OtpErlangFunction, OtpErlangPid, OtpErlangPort, OtpErlangReference):
    _kind.__eq__ = _is_same

# The BEAM's default limit of atoms. Atoms beyond the limit are still correct, but no longer one object per name, so
# that a process that receives ever new names does not grow for ever.
_MAX_INTERNED: Final = 1_048_576
_interned: dict[str, Atom] = {}


class Atom(str):
    """An atom; equal to the ``str`` of its name, and the same object for the same name.

    ``nil``, ``true`` and ``false`` arrive as ``None``, ``True`` and ``False``, never as an ``Atom``.

    >>> Atom("ok")
    Atom('ok')
    >>> Atom("ok") is Atom("ok"), Atom("ok") == "ok"
    (True, True)
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Atom:
        """Return the atom of this name."""
        atom = _interned.get(name)
        if atom is None:
            atom = super().__new__(cls, name)
            if len(_interned) < _MAX_INTERNED:
                # Two threads may get here with the same name: both must return the same object.
                atom = _interned.setdefault(str(name), atom)
        return atom

    def __repr__(self) -> str:
        return f"Atom({super().__repr__()})"


@dataclass(frozen=True, slots=True)
class ImproperList:
    """A list whose tail is no list: ``[1, 2 | 3]`` is ``ImproperList((1, 2), 3)``.

    Args:
        items: The elements before the bar, at least one, kept as a tuple.
        tail: The term behind the bar. If it is an improper list, its items are appended to ``items``.

    Raises:
        ValueError: There are no items, or the tail is a list, which would make a proper list.
    """

    items: tuple[Term, ...]
    tail: Term

    def __init__(self, items: Iterable[Term], tail: Term) -> None:
        all_items = tuple(items)
        if not all_items or isinstance(tail, list | FrozenList):
            raise ValueError(f"expected items and a tail that is no list, got {shown(items)} and {shown(tail)}")
        if isinstance(tail, ImproperList):
            all_items, tail = all_items + tail.items, tail.tail
        object.__setattr__(self, "items", all_items)
        object.__setattr__(self, "tail", tail)


class FrozenList(tuple[Term, ...]):
    """A list inside a map key or a set: hashable, equal to the ``list`` of the same elements, never to a tuple."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenList):
            return tuple.__eq__(self, other)
        return isinstance(other, list) and tuple.__eq__(self, tuple(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)

    def __repr__(self) -> str:
        return f"FrozenList({list(self)!r})"


class FrozenMap(dict[Term, Term]):
    """A map inside a map key or a set: hashable, equal to the ``dict`` of the same entries."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # a dict cannot be hashed, because it can change
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({super().__repr__()})"

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("a FrozenMap cannot be changed; make a dict of it first")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def freeze(term: Term, *, max_depth: int = MAX_KEY_DEPTH) -> Term:
    """Return a term as a map key: hashable, and equal to the same key wherever it comes from.

    Raises:
        ValueError: The term nests deeper than ``max_depth``, counted from 1.
    """
    kind = type(term)
    if kind not in _CONTAINERS:
        return term
    if max_depth == 0:
        raise ValueError(f"a map key that nests deeper than {MAX_KEY_DEPTH} levels")
    inner = max_depth - 1
    if kind is tuple:
        return tuple([freeze(item, max_depth=inner) for item in term])
    if kind is list or kind is FrozenList:
        return FrozenList([freeze(item, max_depth=inner) for item in term])
    if kind is dict or kind is FrozenMap:
        return FrozenMap({freeze(key, max_depth=inner): freeze(term[key], max_depth=inner) for key in term})
    if kind is ImproperList:
        return ImproperList([freeze(item, max_depth=inner) for item in term.items], freeze(term.tail, max_depth=inner))
    return frozenset([freeze(item, max_depth=inner) for item in term])


#: The classes whose instances :func:`freeze` looks into.
_CONTAINERS: Final = frozenset({tuple, list, FrozenList, dict, FrozenMap, ImproperList, set, frozenset})
