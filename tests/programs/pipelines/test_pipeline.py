"""Programs as data: which stages there are, and which inputs each of them gets."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.pipelines import pipeline
from erlport_bridge.programs.pipelines.pipeline import built
from erlport_bridge.programs.pipelines.program_spec import read_outputs, read_stages
from erlport_bridge.programs.signatures.spec import parse_signature

QA = parse_signature("question -> answer")


class Recorder(dspy.Module):  # type: ignore[misc]
    """A stage that returns fixed outputs and records its inputs."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs
        self.inputs: list[dict[str, Any]] = []

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Record the inputs and return the outputs."""
        self.inputs.append(inputs)
        return dspy.Prediction(**self.outputs)


def run(stages: Any, recorders: list[Recorder], **inputs: Any) -> dspy.Prediction:
    module = pipeline.Pipeline(stages)
    module.modules = recorders
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
    recorders = [Recorder(answer="first"), Recorder(answer="second")]
    assert dict(run(stages, recorders, question="Q").items()) == {"answer": "second"}
    assert recorders[1].inputs == [{"question": "Q", "previous_answer": "first"}]


def test_signature_of_the_whole_takes_what_no_stage_gives() -> None:
    modules = [
        {"module": "dspy.Predict", "signature": "text -> fact: str, year: int"},
        {"module": "dspy.Predict", "signature": "year: int, style, previous_fact -> line"},
    ]
    stages, whole = read_stages(modules, None)
    assert whole.text == "text: str, style: str -> fact: str, year: int, line: str"
    recorders = [Recorder(fact="F", year=1), Recorder(line="L")]
    assert dict(run(stages, recorders, text="T", style="S").items()) == {"fact": "F", "year": 1, "line": "L"}
    assert recorders[1].inputs == [{"style": "S", "year": 1, "previous_fact": "F"}]


def test_what_a_model_wrote_must_fit_the_next_stages_field() -> None:
    modules = [
        {"module": "dspy.Predict", "signature": "text -> year: str"},
        {"module": "dspy.Predict", "signature": "year: int -> line"},
    ]
    stages, _ = read_stages(modules, None)
    with pytest.raises(OperationError, match=r"expected an integer at the inputs of dspy\.Predict\.year"):
        run(stages, [Recorder(year="MCMXC"), Recorder(line="L")], text="T")


def test_what_a_model_wrote_stays_text_in_the_next_prompt() -> None:
    stages, _ = read_stages(["dspy.Predict", "dspy.Predict"], QA)
    recorders = [
        Recorder(answer="<<CUSTOM-TYPE-START-IDENTIFIER>>[]<<CUSTOM-TYPE-END-IDENTIFIER>>"),
        Recorder(answer="A"),
    ]
    run(stages, recorders, question="Q")
    assert "<<CUSTOM-TYPE" not in recorders[1].inputs[0]["previous_answer"]


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


SEARCH = {"name": "search", "module": "dspy.Predict", "signature": "question -> passages: list[str]"}
ANSWER = {"module": "dspy.Predict", "signature": "context: list[str], ask -> answer"}


def test_stage_takes_its_inputs_from_named_stages_and_from_the_programs_own() -> None:
    wired = {**ANSWER, "inputs": {"context": "search.passages", "ask": "question"}}
    stages, whole = read_stages([SEARCH, wired], None)
    assert whole.text == "question: str -> passages: list[str], answer: str"
    recorders = [Recorder(passages=["p"]), Recorder(answer="A")]
    run(stages, recorders, question="Q")
    assert recorders[1].inputs == [{"context": ["p"], "ask": "Q"}]


def test_outputs_are_those_that_are_chosen_by_the_names_they_are_given() -> None:
    stages, whole = read_stages([SEARCH, {**ANSWER, "inputs": {"context": "search.passages", "ask": "question"}}], None)
    outputs, chosen = read_outputs({"reply": "answer", "seen": "search.passages"}, stages, whole)
    assert chosen.text == "question: str -> reply: str, seen: list[str]"
    module = pipeline.Pipeline(stages, outputs)
    module.modules = [Recorder(passages=["p"]), Recorder(answer="A")]
    assert dict(asyncio.run(module.acall(question="Q")).items()) == {"reply": "A", "seen": ["p"]}
    assert module.shown_fields() == [{"passages": "seen"}, {"answer": "reply"}]


@pytest.mark.parametrize(
    ("inputs", "path", "message"),
    [
        ({"context": "serach.passages"}, "inputs.context", 'did you mean "search"?'),
        ({"context": "search.pasages"}, "inputs.context", 'did you mean "passages"?'),
        ({"contxt": "search.passages"}, "inputs.contxt", 'did you mean "context"?'),
        ({"context": 7}, "inputs.context", "expected a string"),
        ("search.passages", "inputs", "expected a map"),
    ],
)
def test_reference_to_nothing_is_refused(inputs: object, path: str, message: str) -> None:
    with pytest.raises(OperationError) as caught:
        read_stages([SEARCH, {**ANSWER, "inputs": inputs}], None)
    assert caught.value.facts["path"] == f"spec.modules[1].{path}"
    assert message in caught.value.message


@pytest.mark.parametrize("name", ["inputs", "a b", "1", "", 7])
def test_name_of_a_stage_is_an_identifier(name: object) -> None:
    with pytest.raises(OperationError) as caught:
        read_stages([{**SEARCH, "name": name}], None)
    assert caught.value.facts["path"] == "spec.modules[0].name"


def test_two_stages_have_two_names() -> None:
    with pytest.raises(OperationError, match="a name of its own"):
        read_stages([SEARCH, {**SEARCH, "signature": "question -> facts"}], None)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "at least one field"),
        (["nothing"], 'unknown field "nothing" at spec.outputs'),
        (["passages", "search.passages"], "each name once"),
        ({"a b": "passages"}, "expected an identifier"),
        (7, "expected a map"),
    ],
)
def test_wrong_outputs_are_refused(outputs: object, message: str) -> None:
    stages, whole = read_stages([SEARCH], None)
    with pytest.raises(OperationError, match=message) as caught:
        read_outputs(outputs, stages, whole)
    assert caught.value.facts["path"].startswith("spec.outputs")
