"""A request of which the settings were kept equals the one that DSPy makes anew."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.clients import execution
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.dspy_patches import text_requests
from erlport_bridge.dspy_patches.installing import seam

made_anew = seam.originals["text_requests"]["dspy.clients.execution:request_from_openai_chat"]

TEXTS = st.sampled_from(["", "Why?", "Ä\n"])
CONTENTS = TEXTS | st.sampled_from([None, 1, [{"type": "text", "text": "x"}]])
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool", "other", None]), "content": CONTENTS},
    optional={"name": st.just("me"), "reasoning_content": st.just("So.")},
)
# Values that are equal and not the same (1, 1.0, True), wrong ones, and ones that can change.
VALUES = st.sampled_from([0, 1, 1.0, True, None, "x", "low", [], ["x"], {"a": 1}])
NAMES = st.sampled_from(
    [
        "temperature",
        "max_tokens",
        "top_p",
        "seed",
        "stop",
        "user",
        "reasoning_effort",
        "response_format",
        "tools",
        "odd",
    ]
)
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "gpt-5", ""])}, optional={"messages": st.lists(MESSAGES, max_size=3)}
)


def outcome(make: Any, body: dict[str, Any], compat: Any) -> tuple[str, str]:
    try:
        return "made", repr(make(body, compat=compat))
    except Exception as error:  # noqa: BLE001 - both must raise the same
        return type(error).__name__, str(error)


@given(st.lists(st.tuples(BODIES, st.dictionaries(NAMES, VALUES, max_size=2)), min_size=2, max_size=6), st.data())
def test_requests_and_errors_are_those_of_dspy(bodies: list[Any], data: Any) -> None:
    make = text_requests.of_text(made_anew)
    for messages, settings in [*bodies, *bodies]:
        body = {**messages, **settings}
        compat = data.draw(st.sampled_from([None, "groq", "deepseek"]))
        assert outcome(make, body, compat) == outcome(made_anew, body, compat)


def body_of(*texts: str, **settings: Any) -> dict[str, Any]:
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"model": "m", "messages": messages, **settings}


def test_the_settings_of_a_call_are_read_once() -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return made_anew(*args, **kwargs)

    make = text_requests.of_text(counted)
    for number in range(5):
        make(body_of("Answer.", f"{number}?", temperature=0.5))
    assert len(calls) == 1
    # Equal values of other types are other settings.
    for temperature in (1, 1.0):
        assert type(make(body_of("Answer.", "?", temperature=temperature)).config.temperature) is float
    assert len(calls) == 3


def test_the_number_of_kept_settings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def noted(body: dict[str, Any], compat: Any) -> Any:
        kept.append(body["seed"])
        return made_anew(body, compat=compat)

    make = text_requests.of_text(noted)
    for seed in [*range(1_000), 999, 0]:
        make(body_of("Answer.", "?", seed=seed))
    assert kept == [*range(1_000), 0]


def test_dspy_makes_its_requests_so() -> None:
    lm = dspy.LM("openai/m", api_key="k", temperature=0.25)
    requests = [execution._canonical(execution.prepare(lm, text, None, {})) for text in ("first", "second")]
    assert requests[0].config is requests[1].config
    assert [request.messages[0].parts[0].text for request in requests] == ["first", "second"]
