"""MultiChainComparison compares answers of the caller, or answers that it asks for itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.modules.comparison import ComparedChains

MARKER = "<<CUSTOM-TYPE-START-IDENTIFIER>>"


def compared(attempts: list[Any], **replaced: Any) -> dict[str, Any]:
    """Return the inputs of the comparing prompt for a caller's attempts."""
    module = ComparedChains(dspy.Signature("question -> answer"), len(attempts) or 3)
    asked: list[dict[str, Any]] = []

    async def compare(**inputs: Any) -> dspy.Prediction:
        asked.append(inputs)
        return dspy.Prediction(rationale="-", answer="-")

    module.compare = SimpleNamespace(last_key="answer", predict=SimpleNamespace(acall=compare, lm=None))
    for name, value in replaced.items():
        setattr(module, name, value)
    with dspy.context(lm=SimpleNamespace(kwargs={})):
        asyncio.run(module.aforward(question="Q", completions=attempts or None))
    return asked[0]


def test_attempts_are_worded_as_dspy_words_them() -> None:
    inputs = compared([{"reasoning": f"think {number}", "answer": number} for number in range(2)])
    assert inputs["reasoning_attempt_1"] == "«I'm trying to think 0 I'm not sure but my prediction is 0»"
    assert inputs["reasoning_attempt_2"].endswith("my prediction is 1»")
    assert (inputs["question"], inputs["config"]) == ("Q", {"temperature": 0.7})


def test_attempt_stays_text_in_the_prompt_whoever_wrote_it() -> None:
    given = compared([{"reasoning": MARKER, "answer": MARKER}] * 2)
    assert MARKER not in repr(given)

    async def attempt(**inputs: Any) -> dspy.Prediction:
        return dspy.Prediction(reasoning=MARKER, answer=MARKER)

    made = compared([], attempt=SimpleNamespace(acall=attempt, predict=SimpleNamespace(lm=None)))
    assert "CUSTOM-TYPE" in repr(made)
    assert MARKER not in repr(made)


def test_attempts_end_when_one_of_them_fails() -> None:
    """The other attempts once continued, and were paid for, after their call had failed."""
    ended: list[str] = []

    async def attempt(**inputs: Any) -> dspy.Prediction:
        if not ended:
            ended.append("failed")
            raise RuntimeError("no")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def ask() -> None:
        module = ComparedChains(dspy.Signature("question -> answer"), 3)
        module.attempt = SimpleNamespace(acall=attempt, predict=SimpleNamespace(lm=None))
        with dspy.context(lm=SimpleNamespace(kwargs={})), pytest.raises(RuntimeError, match="no"):
            await module.aforward(question="Q")
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(ask(), 10))
    assert ended == ["failed", "cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("attempts", "path"),
    [
        ([1, 2], "inputs.completions[0]"),
        ([{"reasoning": "r"}] * 2, "inputs.completions[0].answer"),
        ([{"answer": "a"}] * 2, "inputs.completions[0].reasoning"),
        ([{"reasoning": 7, "answer": "a"}] * 2, "inputs.completions[0].reasoning"),
        ([{"reasoning": "r", "answer": b"\xff"}] * 2, "inputs.completions[0].answer"),
    ],
)
def test_wrong_attempt_is_reported_with_its_path(attempts: list[Any], path: str) -> None:
    with pytest.raises(OperationError) as caught:
        compared(attempts)
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", path)
