"""The Python source of programs, as models read it."""

from __future__ import annotations

import ast
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.propose import grounded_proposer

from erlport_bridge.optimizing.program_code import source_of, written
from erlport_bridge.programs.pipelines.pipeline import Pipeline
from erlport_bridge.programs.pipelines.program_spec import read_outputs, read_stages
from erlport_bridge.programs.signatures.spec import parse_signature
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess


def program(modules: Any, shared: str | None = None, outputs: Any = None) -> Pipeline:
    signature = None if shared is None else parse_signature(shared)
    stages, whole = read_stages(modules, signature)
    chosen, _ = read_outputs(outputs, stages, whole)
    return Pipeline(stages, chosen)


def test_a_pipeline_is_the_class_that_does_the_same() -> None:
    topics = {"module": "dspy.ChainOfThought", "signature": "text -> topics: list[str]", "name": "find"}
    lines = {
        "module": "dspy.Predict",
        "signature": "topics: list[str], style -> line",
        "instructions": "Write one line.",
    }
    found = {"module": "dspy.Predict", "signature": "fact -> verdict: bool", "inputs": {"fact": "find.reasoning"}}
    code = written(program([topics, lines, found], outputs={"poem": "line", "ok": "verdict"}))
    assert (
        code
        == """class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.find = dspy.ChainOfThought('text: str -> topics: list[str]')
        self.step_2 = dspy.Predict(dspy.Signature('topics: list[str], style: str -> line: str', 'Write one line.'))
        self.step_3 = dspy.Predict('fact: str -> verdict: bool')

    def forward(self, text, style):
        find = self.find(text=text)
        step_2 = self.step_2(topics=find.topics, style=style)
        step_3 = self.step_3(fact=find.reasoning)
        return dspy.Prediction(poem=step_2.line, ok=step_3.verdict)
"""
    )


@pytest.mark.parametrize(
    "modules",
    [
        ["dspy.Predict", "dspy.ChainOfThought"],
        [{"module": "dspy.ReAct", "tools": ["calculator"], "max_iters": 3}],
        [{"module": "dspy.BestOfN", "N": 2, "reward": {"check": "length", "field": "answer"}, "of": "dspy.Predict"}],
    ],
)
def test_written_source_is_valid_python(modules: Any) -> None:
    code = written(program(modules, "question -> answer"))
    ast.parse(code)
    for module in modules:
        assert (module if isinstance(module, str) else module["module"]) in code
    assert ("tools=[calculator], max_iters=3" in code) == ("ReAct" in code)


def test_a_single_module_of_dspy_is_shown_as_it_is() -> None:
    assert source_of(program(["dspy.ReAct"], "question -> answer")).startswith(f"class {dspy.ReAct.__name__}")
    # A module of the bridge that stands in for DSPy's is written as a class.
    best = {"module": "dspy.BestOfN", "N": 2, "reward": {"check": "length", "field": "answer"}, "of": "dspy.Predict"}
    assert "self.step_1 = dspy.BestOfN(dspy.Predict('question: str" in source_of(program([best], "question -> answer"))


def test_source_of_a_module_of_dspy_has_its_signatures() -> None:
    """With Python 3.14 DSPy raised TypeError, and MIPROv2 proposed instructions without the program's code."""
    code = grounded_proposer.get_dspy_source_code(dspy.ReAct("question -> answer", tools=[len]))
    assert "StringSignature(question, trajectory -> next_thought, next_tool_name, next_tool_args" in code
    assert "class ReAct(" in code


def test_sources_are_found_by_several_threads_at_once() -> None:
    """Python 3.11 cannot parse in two threads: of four programs compiled at the same time, one once failed."""
    found = program(["dspy.ReAct"], "question -> answer")
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(source_of, [found] * 60))) == 1


def test_models_that_improve_a_program_read_its_stages(port: PortProcess, model_server: ModelServer) -> None:
    stages = [
        {"module": "dspy.Predict", "signature": "question -> fact", "name": "look"},
        {"module": "dspy.Predict", "signature": "fact -> answer"},
    ]
    made = port.done("create_program", {"modules": stages})["id"]
    examples = [{"question": f"q{number}", "answer": "a"} for number in range(4)]
    metric = {"check": "equals", "field": "answer", "input": "answer"}
    options = {"optimizer": "dspy.MIPROv2", "num_candidates": 2, "num_trials": 1, "minibatch": False, "metric": metric}
    options["lm"] = openai(model_server, "answer")
    port.done("compile_program", None, made, examples, options)
    asked = [json.dumps(request.body) for request in model_server.requests]
    shown = [text for text in asked if "program_code" in text and "class Program(dspy.Module)" in text]
    assert shown
    assert all("look = self.look(question=question)" in text for text in shown)
    assert not any("Trainee" in text for text in asked)
