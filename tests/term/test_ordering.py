"""Maps of Elixir have one order in Python, whatever order their keys came in."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.term import Atom, FrozenMap, OrderedMap, sort_maps, sorted_items, sorted_keys

KEYS = st.one_of(
    st.text(max_size=3), st.integers(), st.floats(allow_nan=False), st.none(), st.builds(Atom, st.text(max_size=3))
)
TERMS = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def seeded(seed: int) -> random.Random:
    """Return a source of random numbers that are the same in each run."""
    return random.Random(seed)  # noqa: S311 - no secret


def shuffled(term: Any, source: random.Random) -> Any:
    """Return an equal term whose maps have their keys in another order."""
    if isinstance(term, dict):
        entries = [(key, shuffled(value, source)) for key, value in term.items()]
        source.shuffle(entries)
        return type(term)(entries)
    if isinstance(term, list | tuple):
        return type(term)(shuffled(item, source) for item in term)
    return term


@given(TERMS, st.randoms(use_true_random=False))
def test_equal_terms_have_equal_orders(term: Any, source: random.Random) -> None:
    other = shuffled(term, source)
    sort_maps([term, other])
    assert repr(term) == repr(other)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (["b", Atom("a"), "c"], ["a", "b", "c"]),
        ([10, 9.5, -1], [-1, 9.5, 10]),
        (["10", "9", 10, 9], [9, 10, "10", "9"]),
        ([FrozenMap({"b": 1}), "x", None, FrozenMap({"a": 1})], ["x", FrozenMap({"a": 1}), FrozenMap({"b": 1}), None]),
        (["z", "é", "a", "日"], ["a", "z", "é", "日"]),
    ],
)
def test_keys_have_the_order_of_erlang(keys: list[Any], wanted: list[Any]) -> None:
    assert sorted_keys(keys) == wanted
    assert sorted_keys(reversed(keys)) == wanted


def test_a_map_whose_sender_chose_an_order_keeps_it() -> None:
    inner = {"z": 1, "a": 2}
    term = OrderedMap([("y", [inner]), ("b", 1)])
    sort_maps([term])
    assert list(term) == ["y", "b"]
    assert list(inner) == ["a", "z"]
    assert sorted_items(term) == [("y", [inner]), ("b", 1)]
    assert sorted_items({"y": 1, "b": 2}) == [("b", 2), ("y", 1)]


def test_deep_terms_are_sorted_without_recursion() -> None:
    term: Any = {"b": 1, "a": 2}
    for _ in range(20_000):
        term = [term]
    innermost = term
    sort_maps([term])
    while isinstance(innermost, list):
        (innermost,) = innermost
    assert list(innermost) == ["a", "b"]
