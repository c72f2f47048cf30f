"""Named metrics and checks compare values by their types: right values for each kind, or an error of kind ``input``."""

from __future__ import annotations

import asyncio
import datetime
from decimal import Decimal
from typing import Any

import dspy
import pydantic
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.modules import read_reward
from erlport_bridge.term import Atom

DAY = datetime.date(2024, 1, 2)
NOON = datetime.datetime(2024, 1, 2, 12, 0, tzinfo=datetime.timezone.utc)


class Person(pydantic.BaseModel):
    """An object of a signature."""

    name: str


def judged(check: str, found: Any, other: Any) -> float:
    """Give the score of a prediction that has ``found`` where ``other`` was right."""
    reward = read_reward({"check": check, "field": "v", "input": "v"}, "metric")
    return asyncio.run(reward.judge({"v": other}, dspy.Prediction(v=found))).score


EQUAL = [
    ("text", "text"),
    ("Ünïcode", "ünïcode"),
    ("enum", Atom("enum")),
    (7, 7),
    (0, 0),
    (-3, -3),
    (2**70, 2**70),
    (7, 7.0),
    (0.1 + 0.2, 0.3),
    (Decimal("2.50"), Decimal("2.5")),
    (Decimal("2.5"), 2.5),
    (True, True),
    (False, False),
    (None, None),
    (DAY, DAY),
    (NOON, NOON),
    (datetime.time(12), datetime.time(12)),
    ([], []),
    (["a", 1, None], ["a", 1, None]),
    (["a", ["b"]], ["a", ("b",)]),
    ((1, 2), [1, 2]),
    ({"a", "b"}, {"b", "a"}),
    ({"a", "b"}, ["b", "a"]),
    ({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]}),
    ({"a": 1}, {Atom("a"): 1}),
    (Person(name="Ada"), {"name": "Ada"}),
    # As examples in files have them.
    (7, "7"),
    (7.5, " 7.50 "),
    (True, "true"),
    (False, "False"),
    (DAY, "2024-01-02"),
    (NOON, "2024-01-02T12:00:00+00:00"),
    (["2024-01-02"], [DAY]),
]
DIFFERENT = [
    ("text", "other"),
    (7, 8),
    (7, "8"),
    (7, "seven"),
    (True, False),
    (True, 1),
    (False, 0),
    (True, "1"),
    (None, "None"),
    (None, ""),
    (None, False),
    (0, None),
    (0, ""),
    (DAY, datetime.date(2024, 1, 3)),
    (DAY, "2024"),
    (DAY, 1704153600),
    (DAY, NOON),
    ([1, 2], [2, 1]),
    ([1, 2], [1, 2, 3]),
    ([], None),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    ({"a", "b"}, {"a"}),
]


def _id(value: Any) -> str:
    """Return a name for a test that does not depend on the order of a set."""
    return f"set {sorted(map(repr, value))}" if isinstance(value, set) else repr(value)


@pytest.mark.parametrize("check", ["equals", "exact_match", "f1", "contains"])
@pytest.mark.parametrize(("found", "other"), EQUAL, ids=_id)
def test_equal_values_are_right(check: str, found: Any, other: Any) -> None:
    """They were compared as text, so that all but text was wrong."""
    assert judged(check, found, other) == 1.0
    if not isinstance(other, Atom):
        assert judged(check, other, found) == 1.0


@pytest.mark.parametrize("check", ["equals", "exact_match"])
@pytest.mark.parametrize(("found", "other"), DIFFERENT, ids=_id)
def test_different_values_are_wrong(check: str, found: Any, other: Any) -> None:
    assert judged(check, found, other) == 0.0
    assert judged(check, other, found) == 0.0


@pytest.mark.parametrize(
    ("found", "other", "score"),
    [
        ("The answer is 7.", 7, 1.0),
        ("The answer is 17.", 7, 0.0),
        ("It costs 7.25 EUR", 7, 0.0),
        ("It costs 7.25 EUR", 7.25, 1.0),
        ("It is true", True, 1.0),
        ("It is untrue", True, 0.0),
        ("On 2024-01-02 it rained", DAY, 1.0),
        ("anything", None, 0.0),
        ("Lisbon in Portugal", "lisbon", 1.0),
        ([1, 2, 3], 2, 1.0),
        ([1, 2, 3], 4, 0.0),
        ([1, 2, 3], [3, 1], 1.0),
        ([1, 2, 3], [3, 3], 0.0),
        (["a", DAY], "2024-01-02", 1.0),
        ({"A", "b"}, "a", 1.0),
        ([1], None, 0.0),
        ([None], None, 1.0),
        (7, 8, 0.0),
        (None, 7, 0.0),
    ],
)
def test_what_contains_something(found: Any, other: Any, score: float) -> None:
    assert judged("contains", found, other) == score


@pytest.mark.parametrize(
    ("found", "other", "score"),
    [
        ("the red house", "a red car", 0.5),
        (["a", "b"], ["b", "c"], 0.5),
        ([1, 1, 2], [1], 0.5),
        ({1, 2}, [2, 1, 3, 4], 2 / 3),
        ([], ["a"], 0.0),
        ("red", ["blue", "red house"], 2 / 3),
        (7, [6, 7], 1.0),
        (7, 8, 0.0),
        (True, 1, 0.0),
        (None, "text", 0.0),
        (DAY, "2024-01-03", 0.0),
    ],
)
def test_f1_of_words_and_of_elements(found: Any, other: Any, score: float) -> None:
    assert judged("f1", found, other) == pytest.approx(score)


@pytest.mark.parametrize(("found", "other"), [("Paris", ["London", "paris!"]), (7, [6, 7]), (DAY, ["x", "2024-01-02"])])
def test_one_of_several_right_answers_is_right(found: Any, other: Any) -> None:
    assert judged("exact_match", found, other) == 1.0
    assert judged("exact_match", found, other[:1]) == 0.0


@pytest.mark.parametrize(
    ("check", "found", "other"),
    [
        ("contains", "text", ["a"]),
        ("contains", "text", {"a": 1}),
        ("contains", {"a": 1}, "a"),
        ("f1", {"a": 1}, {"a": 2}),
        ("f1", "text", {"a": 2}),
    ],
)
def test_what_cannot_be_compared_is_an_error(check: str, found: Any, other: Any) -> None:
    with pytest.raises(OperationError, match="does not compare") as caught:
        judged(check, found, other)
    assert caught.value.kind == "input"


def test_checks_of_true_and_of_one_are_not_the_same() -> None:
    checks = [read_reward({"check": "equals", "field": "v", "value": value}, "r") for value in (True, 1, False, 0)]
    assert len(set(checks)) == 4
