"""Requests and answers are checked as DSPy checks them, whatever their fields hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dspy import lm15
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.dspy_patches.guards import Place
from erlport_bridge.dspy_patches.installing import seam

ORIGINALS = seam.originals["value_checks"]


class Text(str):
    """Text of another class."""


class Count(int):
    """A count of another class."""


TEXT = lm15.TextPart("x")
IMAGE = lm15.ImagePart(data="AAAA")
CALL = lm15.ToolCallPart(id="1", name="f", input={})
RESULT = lm15.ToolResultPart(id="1", content=(TEXT,))
DATA = lm15.DataPart({"a": "x"}, {"a": {"x": 1.0}}, "candidate_sequence_likelihood")
STATE = lm15.ContinuationState("p", "k")
CONTINUATIONS = st.sampled_from([(), [], None, (STATE,), [STATE], STATE, "x", (1,), 1])
TEXTS = st.sampled_from(["", "x", "Ä\n", Text(""), Text("x"), None, 1, b"x", ["x"]])
PARTS = st.sampled_from([TEXT, IMAGE, CALL, RESULT, DATA, "x", None])
ROLES = st.sampled_from(["user", "assistant", "developer", "tool", "system", Text("user"), "", None, 1, ["user"]])
MESSAGES = st.sampled_from([lm15.Message("user", (TEXT,)), lm15.Message("assistant", (CALL,)), "x", None])
TOOL = lm15.FunctionTool("f", parameters={"type": "object"})
CONFIGS = st.sampled_from(
    [
        lm15.Config(),
        lm15.Config(temperature=1.0),
        lm15.Config(tool_choice=lm15.ToolChoice("auto")),
        lm15.Config(tool_choice=lm15.ToolChoice("required", allowed=("f",))),
        None,
        {},
    ]
)
COUNTS = st.sampled_from([None, 0, 1, 2**70, -1, 2.0, 1.5, True, Count(3), "1", float("nan")])
USAGE_FIELDS = (
    *("input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("input_audio_tokens", "output_audio_tokens"),
)
USER = lm15.Message("user", (TEXT,))
ANSWER = lm15.Message("assistant", (TEXT,))
# For each class: the fields of a usual value, and what else they may hold.
VALUES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, st.SearchStrategy[Any]]]] = {
    "TextPart": (lm15.TextPart, {"text": "x"}, {"text": TEXTS, "continuation": CONTINUATIONS}),
    "Message": (
        lm15.Message,
        {"role": "user", "parts": (TEXT,)},
        {
            "role": ROLES,
            "parts": st.lists(PARTS, max_size=3).map(tuple) | st.lists(PARTS, max_size=2) | PARTS,
            "continuation": CONTINUATIONS,
        },
    ),
    "Request": (
        lm15.Request,
        {"model": "m", "messages": (USER,)},
        {
            "model": TEXTS,
            "messages": st.lists(MESSAGES, max_size=2).map(tuple) | st.lists(MESSAGES) | MESSAGES,
            "system": TEXTS | st.sampled_from([(TEXT,), (CALL,), [TEXT]]),
            "tools": st.sampled_from([(), [], (TOOL,), [TOOL], TOOL, (TOOL, TOOL), ("x",), None]),
            "config": CONFIGS,
        },
    ),
    "Usage": (lm15.Usage, {}, dict.fromkeys(USAGE_FIELDS, COUNTS)),
    "Response": (
        lm15.Response,
        {"id": None, "model": "m", "message": ANSWER, "finish_reason": "stop", "usage": lm15.Usage()},
        {
            "id": TEXTS,
            "model": TEXTS,
            "message": MESSAGES,
            "finish_reason": st.sampled_from(["length", "error", "tool_call", Text("stop"), "other", None, []]),
            "usage": st.sampled_from([lm15.Usage(input_tokens=1), None, {}]),
            "logprobs": st.sampled_from([None, (), [], (1,)]),
            "provider_data": st.sampled_from([None, {}, {"a": 1}, {"a": TEXT}, []]),
            "adaptations": st.sampled_from([(), [], (1,), None]),
            "logprobs_complete": st.sampled_from([True, False, None, 1]),
        },
    ),
}


@contextmanager
def as_dspy_does() -> Iterator[None]:
    """Check with DSPy's own functions in the ``with`` block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for target, original in ORIGINALS.items():
            place = Place(target)
            monkeypatch.setattr(place.owner, place.attribute, original)
        yield


def outcome(make: Callable[..., Any], fields: dict[str, Any]) -> tuple[str, Any]:
    """Return what a value has become, with the classes of its fields, or the error."""
    try:
        made = make(**fields)
    except Exception as error:  # noqa: BLE001 - both must raise the same
        return type(error).__name__, str(error)
    return "made", [(name, type(value), repr(value)) for name in made.__slots__ for value in [getattr(made, name)]]


@pytest.mark.parametrize("name", VALUES)
@given(data=st.data())
def test_values_and_errors_are_those_of_dspy(name: str, data: Any) -> None:
    make, usual, others = VALUES[name]
    changed = data.draw(st.lists(st.sampled_from(sorted(others)), max_size=3, unique=True))
    fields = usual | {field: data.draw(others[field]) for field in changed}
    with as_dspy_does():
        expected = outcome(make, fields)
    assert outcome(make, fields) == expected


def test_usual_values_need_none_of_dspys_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for target in ORIGINALS:
        place = Place(target)
        replacement = seam.patches["value_checks"].targets[target]
        assert replacement is not None
        monkeypatch.setattr(place.owner, place.attribute, replacement(calls.append))
    message = lm15.Message.assistant("So.")
    lm15.Request("m", (lm15.Message.user("Why?"), message), "Answer.", (), lm15.Config(temperature=0.5))
    lm15.Response(None, "m", message, "stop", lm15.Usage(input_tokens=1, output_tokens=2, total_tokens=3))
    assert calls == []
    # DSPy adds the tokens up.
    usage = lm15.Usage(input_tokens=1, output_tokens=2)
    assert calls == [usage]
