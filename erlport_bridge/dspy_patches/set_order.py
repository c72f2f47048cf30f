"""Sort the elements of sets where DSPy writes them into prompts.

Python's own order of a set depends on the hashes of its texts, which each process makes anew.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, Final

import pydantic

from erlport_bridge.term import sorted_keys

# What becomes of an object with a set, from its fields.
_Write = Callable[[Any, dict[str, Any]], Any]

_PLAIN: Final = frozenset([str, int, float, bool, type(None), bytes])


def with_sorted_sets(serialize: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a replacement of ``serialize_for_json`` that writes the elements of sets in sorted order."""

    @functools.wraps(serialize)
    def serialize_for_json(value: Any) -> Any:
        # Most values are texts, and DSPy asks Pydantic for a text too, which is the same.
        return value if type(value) is str else serialize(sets_as_lists(value))

    return serialize_for_json


def sets_as_lists(value: Any) -> Any:
    """Return a value with a sorted list in place of each set, at any depth; the value itself if it has no set.

    An object with a set becomes the value that Pydantic makes of it for JSON.

    >>> sets_as_lists({"tags": {"b", "a"}, "n": 1})
    {'tags': ['a', 'b'], 'n': 1}
    """
    return _walked(value, _dumped)


def _walked(value: Any, write: _Write) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, set | frozenset):
        # By their text first: then also elements that cannot be compared come in one order.
        return sorted_keys(sorted((_walked(item, write) for item in value), key=repr))
    if isinstance(value, list | tuple):
        return _each(value, write)
    if isinstance(value, dict):
        items = value.values()
        changed = _each(items, write)
        return value if changed is items else dict(zip(value, changed, strict=True))
    fields = _fields(value)
    # Within an object objects stay objects, which its own serializer may need.
    changed = _walked(fields, _copied)
    return value if changed is fields else write(value, changed)


def _each(items: Collection[Any], write: _Write) -> Collection[Any]:
    if _PLAIN.issuperset(map(type, items)):
        return items
    changed = [_walked(item, write) for item in items]
    return changed if any(new is not old for new, old in zip(changed, items, strict=True)) else items


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, pydantic.BaseModel):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def _copied(value: Any, fields: dict[str, Any]) -> Any:
    changed = copy.copy(value)
    for name, item in fields.items():
        object.__setattr__(changed, name, item)  # the object may be frozen
    return changed


def _dumped(value: Any, fields: dict[str, Any]) -> Any:
    adapter = pydantic.TypeAdapter(type(value))
    # No warnings: Pydantic expects a set where there is a list now.
    return adapter.dump_python(_copied(value, fields), mode="json", warnings=False, fallback=str)
