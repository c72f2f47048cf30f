"""JSON with mistakes is repaired up to a limit, JSON without mistakes is read whatever its length."""

from __future__ import annotations

import time

import pytest

from erlport_bridge.programs.values import answer_json
from erlport_bridge.programs.values.answers import UnreadableError, read_text

_LIMIT = answer_json.MAX_REPAIRED_CHARACTERS


def _with_mistake(size: int) -> str:
    return "[" + "1, " * (size // 3 - 1) + ",]"


def test_mistakes_are_repaired_up_to_the_limit() -> None:
    assert set(read_text(_with_mistake(3_000), list[int])) == {1}
    with pytest.raises(UnreadableError, match=f"JSON with mistakes is read up to {_LIMIT} characters"):
        read_text(_with_mistake(_LIMIT + 100), list[int])
    with pytest.raises(ValueError, match=f"up to {_LIMIT} characters"):
        answer_json.loads(_with_mistake(_LIMIT + 100))


def test_json_without_mistakes_is_read_beyond_the_limit() -> None:
    text = "[" + "1, " * _LIMIT + "1]"
    assert len(read_text(text, list[int])) == _LIMIT + 1
    assert len(answer_json.loads(f"```json\n{text}\n```")) == _LIMIT + 1


def test_a_long_text_that_is_no_json_is_refused_fast() -> None:
    """``json_repair`` took 5 s for each MB."""
    text = "{" + "the quick brown fox " * 100_000 + "}"
    started_at = time.thread_time()
    with pytest.raises(UnreadableError):
        read_text(text, dict[str, int])
    assert time.thread_time() - started_at < 2
