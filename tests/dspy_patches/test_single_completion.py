"""The prediction of one completion holds what DSPy's holds, and so does that of several."""

from __future__ import annotations

import copy
from typing import Any

import dspy
import pytest
from dspy.primitives.prediction import Completions
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.dspy_patches.installing import seam

ORIGINALS = seam.originals["single_completion"]


class Graded(dspy.Prediction):  # type: ignore[misc]
    """A prediction of another class."""


FIELDS = st.dictionaries(st.sampled_from(["answer", "_hidden", "items", "dspy_uuid"]), st.none() | st.text(max_size=3))


def state_of(value: Any) -> Any:
    """Return all that a prediction holds."""
    held = dict(vars(value))
    if isinstance(completions := held.get("_completions"), Completions):
        held["_completions"] = (type(completions), vars(completions))
    return type(value), held


@given(
    st.lists(FIELDS, min_size=1, max_size=2) | st.just({"answer": ["x", "y"]}),
    st.sampled_from([dspy.Prediction, Graded]),
)
def test_a_prediction_is_that_of_dspy(completions: Any, cls: type[dspy.Prediction]) -> None:
    make = ORIGINALS["dspy.primitives.prediction:Prediction.from_completions"].__func__
    given_before = copy.deepcopy(completions)
    signature = dspy.Signature("question -> answer")
    try:
        expected = make(cls, copy.deepcopy(completions), signature=signature)
    except AssertionError as error:  # columns of several lengths
        with pytest.raises(AssertionError, match=str(error)):
            cls.from_completions(completions, signature)
        return
    found = cls.from_completions(completions, signature)
    assert state_of(found) == state_of(expected)
    assert state_of(copy.deepcopy(found)) == state_of(expected)
    # What is set afterwards is set in the prediction alone.
    found["answer"] = "another"
    assert completions == given_before
