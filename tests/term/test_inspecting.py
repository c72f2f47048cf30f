"""Test how error messages show terms."""

import pytest

from erlport_bridge.term import Atom, FrozenList, FrozenMap, ImproperList
from erlport_bridge.term.inspecting import shown, shown_key


class _Unwritable:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (None, "nil"),
        ([True, 1, 2.5], "[true, 1, 2.5]"),
        ((Atom("ok"), Atom("with space")), '{:ok, :"with space"}'),
        ({"a": Atom("b"), Atom("c"): b"\xff"}, '%{"a" => :b, c: <<255>>}'),
        (FrozenMap({FrozenList([1]): 2}), "%{[1] => 2}"),
        (ImproperList([1, "x"], Atom("t")), '[1, "x" | :t]'),
        (range(3), "range(0, 3)"),
        (_Unwritable(), "a _Unwritable"),
        ([1, 2, 3, 4, 5], "[1, 2, 3, 4, …]"),
        (1 << 300, "an integer of 301 bits"),
    ],
)
def test_term_is_shown_as_iex_writes_it(term: object, text: str) -> None:
    assert shown(term) == text


def test_term_that_nests_too_deep_for_python_is_shown_without_an_address() -> None:
    """An improper list was once shown by Python's ``repr``, which fails at some depth; an address was shown then."""
    term: object = 1
    for _ in range(100_000):
        term = ImproperList([term], 1)
    assert shown(term) == "[[[[… | …] | 1] | 1] | 1]"


def test_key_is_shown_as_in_a_path() -> None:
    assert (shown_key("a"), shown_key(Atom("a")), shown_key((1,))) == ('"a"', ":a", "{1}")
