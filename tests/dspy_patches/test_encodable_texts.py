"""Requests are checked for half characters as DSPy checks them."""

from __future__ import annotations

from typing import Any

from dspy.clients import execution
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.dspy_patches.installing import seam

checked_by_dspy = seam.originals["encodable_texts"]["dspy.clients.execution:_check_encodable"]

TEXTS = st.sampled_from(["", "user", "system", "Ä", "\ud800", "x\udfff"])
VALUES = st.recursive(
    TEXTS | st.sampled_from([None, 1]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2) | st.tuples(inner),
    max_leaves=4,
)
MESSAGES = st.dictionaries(st.sampled_from(["role", "content", "name"]), VALUES) | VALUES


def outcome(check: Any, value: Any) -> str | None:
    try:
        check(value, "messages")
    except ValueError as error:
        return str(error)
    return None


@given(st.lists(MESSAGES, max_size=3) | VALUES)
def test_the_error_is_that_of_dspy(value: Any) -> None:
    assert outcome(execution._check_encodable, value) == outcome(checked_by_dspy, value)


def test_half_a_character_in_a_message_is_refused() -> None:
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "half: \ud83d"}]
    assert "U+D83D" in str(outcome(execution._check_encodable, messages))
