"""Rewards and metrics that functions of Elixir return."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.modules.rewards import ElixirReward, read_reward
from erlport_bridge.term import Atom


class Answering:
    """A function that answers with one term."""

    place = "opts.reward"

    def __init__(self, term: Any) -> None:
        self._term = term

    async def call(self, given: Mapping[str, Any]) -> Any:
        """Return the term."""
        return self._term


def judged(term: Any) -> float:
    reward = ElixirReward(cast(ElixirFunction, Answering(term)))
    return asyncio.run(reward.judge({}, dspy.Prediction(answer="x"))).score


@pytest.mark.parametrize("score", [0, 1, 7.0, -1, 10**300, True, {"score": 0.5}, {"score": 2, "feedback": "good"}])
def test_any_finite_number_is_a_score(score: Any) -> None:
    expected = score["score"] if isinstance(score, dict) else score
    assert judged(score) == float(expected)


@pytest.mark.parametrize("number", [10**400, -(10**400), Atom("nan"), float("nan"), float("inf"), "1", None, [1]])
@pytest.mark.parametrize("as_map", [False, True])
def test_what_is_no_number_is_an_error_of_the_function(number: Any, as_map: bool) -> None:
    """An integer that no float can hold was an internal error."""
    with pytest.raises(OperationError) as caught:
        judged({"score": number} if as_map else number)
    assert (caught.value.kind, caught.value.facts["path"]) == ("tool", "opts.reward")
    assert "expected a number, or a map with score and feedback" in caught.value.message


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"chck": "equals", "field": "a"}, 'unknown key of a check "chck" at opts.metric (did you mean "check"?)'),
        ({"check": "equals", "fields": "a"}, 'unknown key of a check "fields" at opts.metric (did you mean "field"?)'),
        ({"check": "words", "feild": "a"}, 'unknown key of a check "feild" at opts.metric (did you mean "field"?)'),
        ({"check": "equals"}, "expected a string at opts.metric.field, got nil"),
        ({}, 'expected a function or a check such as %{check: "equals", …} at opts.metric, got %{}'),
        ([], 'expected a function or a check such as %{check: "equals", …} at opts.metric, got []'),
    ],
)
def test_a_misspelt_key_of_a_check_is_named(check: Any, message: str) -> None:
    """The error was `expected a string at opts.metric.check, got nil`."""
    with pytest.raises(OperationError) as caught:
        read_reward(check, "opts.metric", "metric")
    assert caught.value.message.startswith(message)
