"""Values without sets; tests/operations/test_set_order.py compares the prompts of processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic
import pytest

from erlport_bridge.dspy_patches import sets_as_lists

WORDS = {"b", "a", "c"}


class Person(pydantic.BaseModel):
    """An object with sets."""

    name: str
    tags: set[str]
    more: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """A frozen object without a dict."""

    words: frozenset[str]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (WORDS, ["a", "b", "c"]),
        (frozenset(WORDS), ["a", "b", "c"]),
        ({10, 9, 1.5}, [1.5, 9, 10]),
        ({"b", None, 2, "a"}, [2, "a", "b", None]),
        ({frozenset("ba"), frozenset("ab c")}, [[" ", "a", "b", "c"], ["a", "b"]]),
        ({(1, None), (1, "a")}, [(1, "a"), (1, None)]),
        ([{"k": WORDS}, (1, WORDS)], [{"k": ["a", "b", "c"]}, [1, ["a", "b", "c"]]]),
        (Person(name="n", tags=WORDS), {"name": "n", "tags": ["a", "b", "c"], "more": {}}),
        (
            [Person(name="n", tags=set(), more={"x": WORDS})],
            [{"name": "n", "tags": [], "more": {"x": ["a", "b", "c"]}}],
        ),
        (Found(frozenset(WORDS)), {"words": ["a", "b", "c"]}),
        (set(), []),
    ],
)
@pytest.mark.filterwarnings("error")
def test_sets_become_sorted_lists(value: Any, expected: Any) -> None:
    assert sets_as_lists(value) == expected


@pytest.mark.parametrize(
    "value",
    ["x", 1, None, [1, [2]], {"a": {"b": (1,)}}, math.inf, dspy.Code(code="x"), Person, Found, object(), range(3)],
)
def test_other_values_stay_what_they_are(value: Any) -> None:
    assert sets_as_lists(value) is value


def test_tool_calls_with_a_set_are_written_as_dspy_writes_them() -> None:
    calls = [
        dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(name="f", args={"words": words})])
        for words in (WORDS, sorted(WORDS))
    ]
    written, expected = (dspy.adapters.utils.serialize_for_json(sets_as_lists(each)) for each in calls)
    assert written == expected
