"""Each optimizer run by plain DSPy and through a port, with the same model: equal prompts, and equal programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from erlport_bridge.optimizing.optimizers import ENTRIES
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

# Warnings of DSPy itself, which runs in this process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QA = "question -> answer"
# The model answers `answer to <question>`, which is right for every second question.
EXAMPLES = [
    {"question": f"number {number}?", "answer": f"answer to number {number}?" if number % 2 else "else"}
    for number in range(8)
]
METRIC = {"check": "equals", "field": "answer", "input": "answer"}
Metric = Callable[..., Any]
Trainset = list[dspy.Example]

#: Each optimizer in Python, and the same options for the port.
CASES: dict[str, tuple[Callable[[Metric, Trainset, dspy.LM], dspy.Module], dict[str, Any]]] = {
    "dspy.LabeledFewShot": (
        lambda metric, trainset, lm: dspy.LabeledFewShot(k=3).compile(dspy.Predict(QA), trainset=trainset),
        {"k": 3},
    ),
    "dspy.BootstrapFewShot": (
        lambda metric, trainset, lm: dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2).compile(
            dspy.Predict(QA), trainset=trainset
        ),
        {"max_bootstrapped_demos": 2},
    ),
    "dspy.BootstrapFewShotWithRandomSearch": (
        lambda metric, trainset, lm: dspy.BootstrapFewShotWithRandomSearch(
            metric=metric, num_candidate_programs=3
        ).compile(dspy.Predict(QA), trainset=trainset),
        {"num_candidate_programs": 3},
    ),
    "dspy.COPRO": (
        lambda metric, trainset, lm: dspy.COPRO(metric=metric, breadth=3, depth=2).compile(
            dspy.Predict(QA), trainset=trainset, eval_kwargs={"num_threads": 1, "display_progress": False}
        ),
        {"breadth": 3, "depth": 2},
    ),
    "dspy.MIPROv2": (
        lambda metric, trainset, lm: dspy.MIPROv2(
            metric=metric, auto=None, num_candidates=3, task_model=lm, prompt_model=lm
        ).compile(dspy.Predict(QA), trainset=trainset, num_trials=3, minibatch=False),
        {"num_candidates": 3, "num_trials": 3, "minibatch": False},
    ),
    "dspy.SIMBA": (
        lambda metric, trainset, lm: dspy.SIMBA(
            metric=metric, bsize=4, num_candidates=2, max_steps=2, prompt_model=lm
        ).compile(dspy.Predict(QA), trainset=trainset),
        {"bsize": 4, "num_candidates": 2, "max_steps": 2},
    ),
    "dspy.GEPA": (
        lambda metric, trainset, lm: dspy.GEPA(
            metric=lambda gold, pred, trace=None, pred_name=None, pred_trace=None: metric(gold, pred),
            max_metric_calls=30,
            reflection_lm=lm,
        ).compile(dspy.Predict(QA), trainset=trainset),
        {"max_metric_calls": 30},
    ),
    "dspy.InferRules": (
        lambda metric, trainset, lm: dspy.InferRules(metric=metric, num_candidates=2).compile(
            dspy.Predict(QA), trainset=trainset
        ),
        {"num_candidates": 2},
    ),
}


def is_right(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    return float(example.answer == prediction.answer)


def prompts(server: ModelServer, begun: int) -> list[str]:
    """Return the requests of the model, sorted, since several threads send them."""
    return sorted(json.dumps(request.body["messages"]) for request in server.requests[begun:])


def learned(module: dspy.Module) -> dict[str, Any]:
    (predictor,) = module.predictors()
    demos = [{name: demo[name] for name in ("question", "answer")} for demo in predictor.demos]
    return {"instructions": predictor.signature.instructions, "demos": demos}


@pytest.mark.parametrize("name", CASES)
def test_an_optimizer_asks_and_finds_what_it_does_in_python(
    port: PortProcess, model_server: ModelServer, name: str
) -> None:
    compile_plainly, options = CASES[name]
    lm = dspy.LM("openai/answer", api_base=f"{model_server.url}/v1", api_key="k", cache=False)
    trainset = [dspy.Example(**example).with_inputs("question") for example in EXAMPLES]
    with dspy.context(lm=lm, num_threads=1):
        expected = learned(compile_plainly(is_right, trainset, lm))
    asked = prompts(model_server, 0)
    begun = len(model_server.requests)
    program = port.done("create_program", QA)["id"]
    call = {"lm": openai(model_server, "answer"), "optimizer": name, "metric": METRIC, "num_threads": 1, **options}
    port.done("compile_program", None, program, EXAMPLES, call)
    (found,) = port.done("describe_program", None, program)["learned"].values()
    demos = [{field: demo[field] for field in ("question", "answer")} for demo in found["demos"]]
    assert {"instructions": found["instructions"], "demos": demos} == expected
    assert prompts(model_server, begun) == asked


def test_every_optimizer_is_compared() -> None:
    """All but three: Optuna's sampler has no seed, voting is a function of DSPy, and KNNFewShot runs in each call."""
    elsewhere = {"dspy.BootstrapFewShotWithOptuna", "dspy.Ensemble", "dspy.KNNFewShot"}
    assert set(CASES) | elsewhere == set(ENTRIES)
