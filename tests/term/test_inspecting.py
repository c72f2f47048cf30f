"""Test how error messages show terms."""

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from erlport_bridge.term import Atom, ElixirZone, FrozenList, FrozenMap, ImproperList, PreciseDateTime, PreciseTime
from erlport_bridge.term.inspecting import shown, shown_key


class _Unwritable:
    def __repr__(self) -> str:
        raise ValueError


def _precise(moment: Any, digits: int) -> Any:
    moment.precision = digits
    return moment


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (None, "nil"),
        ([True, 1, 2.5], "[true, 1, 2.5]"),
        ((Atom("ok"), Atom("with space")), '{:ok, :"with space"}'),
        ({"a": Atom("b"), Atom("c"): b"\xff"}, '%{"a" => :b, c: <<255>>}'),
        (FrozenMap({FrozenList([1]): 2}), "%{[1] => 2}"),
        (ImproperList([1, "x"], Atom("t")), '[1, "x" | :t]'),
        (range(3), "0..2"),
        (range(10, 0, -2), "10..1//-2"),
        (range(0), "0..-1//1"),
        (date(2024, 2, 29), "~D[2024-02-29]"),
        (time(12, 30), "~T[12:30:00]"),
        (time(12, 30, 1, 5), "~T[12:30:01.000005]"),
        (datetime(2024, 2, 29, 12), "~N[2024-02-29 12:00:00]"),
        (datetime(2024, 2, 29, 12, tzinfo=timezone.utc), "~U[2024-02-29 12:00:00Z]"),
        (datetime(2024, 2, 29, 12, tzinfo=timezone(timedelta(hours=2))), "#DateTime<2024-02-29 12:00:00+02:00>"),
        (
            datetime(2024, 7, 1, 12, tzinfo=ElixirZone("Europe/Berlin", "CEST", 3600, 3600)),
            "#DateTime<2024-07-01 12:00:00+02:00 CEST Europe/Berlin>",
        ),
        (_precise(PreciseTime(12, 30, 1, 120_000), 2), "~T[12:30:01.12]"),
        (_precise(PreciseDateTime(2024, 2, 29, 12), 3), "~N[2024-02-29 12:00:00.000]"),
        (Decimal("1.10"), 'Decimal.new("1.10")'),
        ({1}, "MapSet.new([1])"),
        ({Atom("__struct__"): Atom("Elixir.Date"), Atom("year"): -1}, "%Date{year: -1}"),
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
