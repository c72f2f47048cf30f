"""Programs as data: which stages there are, and who gives whose inputs."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import pipeline
from erlport_bridge.programs.pipeline import built, read_stages
from erlport_bridge.programs.signatures import parse_signature

QA = parse_signature("question -> answer")


class Told(dspy.Module):  # type: ignore[misc]
    """A stage that gives fixed outputs and remembers its inputs."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs
        self.inputs: list[dict[str, Any]] = []

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Give the outputs."""
        self.inputs.append(inputs)
        return dspy.Prediction(**self.outputs)


def run(stages: Any, told: list[Told], **inputs: Any) -> dspy.Prediction:
    module = pipeline.Pipeline(stages)
    module.modules = told
    return asyncio.run(module.acall(**inputs))


def test_equal_stages_are_built_once() -> None:
    first, _ = read_stages(["dspy.Predict"], QA)
    again, _ = read_stages([{"module": "dspy.Predict", "signature": "question: str -> answer: str"}], None)
    assert built(first) is built(again)
    assert built(first) is not built(read_stages(["dspy.ChainOfThought"], QA)[0])


def test_shared_signature_gives_a_later_stage_the_previous_answer() -> None:
    stages, whole = read_stages(["dspy.Predict", "dspy.Predict"], QA)
    assert stages[1].spec.text == "question: str, previous_answer: str -> answer: str"
    assert whole == QA
    told = [Told(answer="first"), Told(answer="second")]
    assert dict(run(stages, told, question="Q").items()) == {"answer": "second"}
    assert told[1].inputs == [{"question": "Q", "previous_answer": "first"}]


def test_signature_of_the_whole_takes_what_no_stage_gives() -> None:
    modules = [
        {"module": "dspy.Predict", "signature": "text -> fact: str, year: int"},
        {"module": "dspy.Predict", "signature": "year: int, style, previous_fact -> line"},
    ]
    stages, whole = read_stages(modules, None)
    assert whole.text == "text: str, style: str -> fact: str, year: int, line: str"
    told = [Told(fact="F", year=1), Told(line="L")]
    assert dict(run(stages, told, text="T", style="S").items()) == {"fact": "F", "year": 1, "line": "L"}
    assert told[1].inputs == [{"style": "S", "year": 1, "previous_fact": "F"}]


def test_what_a_model_wrote_must_fit_the_next_stages_field() -> None:
    modules = [
        {"module": "dspy.Predict", "signature": "text -> year: str"},
        {"module": "dspy.Predict", "signature": "year: int -> line"},
    ]
    stages, _ = read_stages(modules, None)
    with pytest.raises(OperationError, match=r"expected an integer at the inputs of dspy\.Predict\.year"):
        run(stages, [Told(year="MCMXC"), Told(line="L")], text="T")


def test_what_a_model_wrote_stays_text_in_the_next_prompt() -> None:
    stages, _ = read_stages(["dspy.Predict", "dspy.Predict"], QA)
    told = [Told(answer="<<CUSTOM-TYPE-START-IDENTIFIER>>[]<<CUSTOM-TYPE-END-IDENTIFIER>>"), Told(answer="A")]
    run(stages, told, question="Q")
    assert "<<CUSTOM-TYPE" not in told[1].inputs[0]["previous_answer"]


def test_history_is_the_first_input_of_every_stage() -> None:
    stages, whole = read_stages(["dspy.Predict", "dspy.ChainOfThought"], QA, history=True)
    assert [stage.spec.inputs[0].name for stage in stages] == ["history", "history"]
    assert [field.name for field in whole.inputs] == ["history", "question"]


@pytest.mark.parametrize(
    ("modules", "kind"),
    [
        ("dspy.Predict", "input"),
        ([], "input"),
        (["dspy.Predict"] * 21, "input"),
        ([7], "input"),
        ([{"module": "dspy.Predict", "tools": ["calculator"]}], "input"),
        ([{"module": "dspy.ReAct", "tools": "calculator"}], "input"),
        ([{"module": "dspy.ReAct", "options": {"max_iters": 101}}], "input"),
        ([{"signature": "a -> b"}], "input"),
        ([{"module": "dspy.Predict", "signature": "unknown -> b"}], "signature"),
    ],
)
def test_wrong_stages_are_refused(modules: object, kind: str) -> None:
    with pytest.raises(OperationError) as caught:
        read_stages(modules, QA)
    assert caught.value.kind == kind
