"""Each module run by plain DSPy and through a port, with the same replies of a model: equal answers, prompts, usage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import dspy
import pytest
from dspy.adapters import _legacy_type_markers
from dspy.adapters.types import base_type

from erlport_bridge.programs.sandbox import sandboxes
from erlport_bridge.programs.values.results import plain
from tests.model_server import ModelServer, openai
from tests.parity.differences import INTENDED, without_reward_code
from tests.port_process import PortProcess

# Warnings of DSPy itself, which runs in this process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QA = "question -> answer"
MODEL = "scripted:parity"

# What a tool may return: DSPy refuses a list of other things than texts.
VALUES: Final[dict[str, Any]] = {
    "none": None,
    "empty": "",
    "spaces": "  ",
    "false": False,
    "zero": 0,
    "half": 1.5,
    "list": [],
    "texts": ["a", ""],
    "map": {},
    "nested": {"a": [None, {"b": ""}]},
}

APPLICATION = '''
from erlport_bridge.programs.tools import offer


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


VALUES = {values!r}


def value_of(kind: str) -> object:
    """Return a value of a kind."""
    return VALUES[kind]


offer(double)
offer(value_of)
'''


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def value_of(kind: str) -> object:
    """Return a value of a kind."""
    return VALUES[kind]


def names_lisbon(args: dict[str, Any], prediction: dspy.Prediction) -> float:
    return float("lisbon" in prediction.answer.casefold())


LISBON = {"check": "contains", "field": "answer", "value": "lisbon"}
PORTO_THEN_LISBON = [{"reasoning": "a", "answer": "Porto"}, {"reasoning": "b", "answer": "Lisbon"}]


@dataclass(frozen=True)
class Case:
    """A module as both sides build it, and what the model replies.

    Attributes:
        build: Builds the module of plain DSPy.
        module: The module of the port.
        replies: The model's replies: fields, or text.
        inputs: The inputs on both sides.
        given: The arguments of plain DSPy's call, if they differ from the inputs.
        options: The options of the port's call.
    """

    build: Callable[[], dspy.Module]
    module: Any
    replies: list[Any]
    signature: Any = QA
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"question": "What is it?"})
    given: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def next_tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"next_thought": "-", "next_tool_name": name, "next_tool_args": arguments}


def tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"next_thought": "-", "tool_calls": {"tool_calls": [{"name": name, "args": arguments}]}}


ATTEMPTS = [{"reasoning": f"thought {number}", "answer": answer} for number, answer in enumerate("ABB")]
TYPED = 'question, tags: list[str], k: int -> answer: str, scores: list[float], kind: Literal["a", "b"], sure: bool'
# A signature with the field that modules add.
OWN = "question -> answer: str, reasoning: list[str]"
REASONED = {"reasoning": ["a", "b"], "answer": "42"}

CASES = {
    "Predict": Case(lambda: dspy.Predict(QA), "dspy.Predict", [{"answer": "42"}]),
    "Predict with types": Case(
        lambda: dspy.Predict(TYPED),
        "dspy.Predict",
        [{"answer": "x", "scores": [0.5, 1.0], "kind": "b", "sure": True}],
        signature=TYPED,
        inputs={"question": "Which — one?\n\nThis: é", "tags": ["p", "q"], "k": 7},
    ),
    "Predict with instructions": Case(
        lambda: dspy.Predict(dspy.Signature(QA, "Answer like a pirate.")),
        {
            "module": "dspy.Predict",
            "signature": {"inputs": "question", "outputs": "answer"},
            "instructions": "Answer like a pirate.",
        },
        [{"answer": "Arr"}],
        signature=None,
    ),
    "Predict that is read at the second try": Case(
        lambda: dspy.Predict(QA), "dspy.Predict", ["no field at all", '{"answer": "42"}']
    ),
    "ChainOfThought": Case(lambda: dspy.ChainOfThought(QA), "dspy.ChainOfThought", PORTO_THEN_LISBON[:1]),
    "ChainOfThought with its own reasoning": Case(
        lambda: dspy.ChainOfThought(OWN), "dspy.ChainOfThought", [REASONED], signature=OWN
    ),
    "ReAct with its own reasoning": Case(
        lambda: dspy.ReAct(OWN, tools=[double]),
        "dspy.ReAct",
        [next_tool("finish"), REASONED],
        signature=OWN,
        options={"tools": ["double"]},
    ),
    "ReAct": Case(
        lambda: dspy.ReAct(QA, tools=[double], max_iters=4),
        "dspy.ReAct",
        [next_tool("double", n=21), next_tool("finish"), {"reasoning": "r", "answer": "42"}],
        options={"tools": ["double"], "max_iters": 4},
    ),
    "ReAct with values of each kind, and without a thought": Case(
        lambda: dspy.ReAct(QA, tools=[value_of]),
        "dspy.ReAct",
        [
            *(next_tool("value_of", kind=kind) | {"next_thought": kind if kind == "zero" else ""} for kind in VALUES),
            next_tool("finish"),
            {"reasoning": "r", "answer": "42"},
        ],
        options={"tools": ["value_of"]},
    ),
    "ReActV2": Case(
        lambda: dspy.ReActV2(QA, tools=[double], max_iters=4),
        "dspy.ReActV2",
        [tool_call("double", n=21), tool_call("submit", answer="42")],
        options={"tools": ["double"], "max_iters": 4},
    ),
    "ReActV2 that is asked to submit": Case(
        lambda: dspy.ReActV2(QA, tools=[double], max_iters=1),
        "dspy.ReActV2",
        [tool_call("double", n=21), tool_call("submit", answer="42")],
        options={"tools": ["double"], "max_iters": 1},
    ),
    "MultiChainComparison": Case(
        lambda: dspy.MultiChainComparison(QA),
        "dspy.MultiChainComparison",
        [{"rationale": "two of three", "answer": "B"}],
        inputs={"question": "A or B?"},
        given=(ATTEMPTS,),
        options={},
    ),
    "BestOfN": Case(
        lambda: dspy.BestOfN(dspy.ChainOfThought(QA), N=3, reward_fn=names_lisbon, threshold=1.0),
        {"module": "dspy.BestOfN", "N": 3, "reward": LISBON, "threshold": 1.0, "of": "dspy.ChainOfThought"},
        PORTO_THEN_LISBON,
    ),
    "Refine": Case(
        lambda: dspy.Refine(dspy.ChainOfThought(QA), N=3, reward_fn=names_lisbon, threshold=1.0),
        {"module": "dspy.Refine", "N": 3, "reward": LISBON, "threshold": 1.0, "of": "dspy.ChainOfThought"},
        [PORTO_THEN_LISBON[0], {"discussion": "d", "advice": {"predict": "go south"}}, PORTO_THEN_LISBON[1]],
    ),
    "BestOfN of ReAct": Case(
        lambda: dspy.BestOfN(dspy.ReAct(QA, tools=[double]), N=2, reward_fn=names_lisbon, threshold=1.0),
        {"module": "dspy.BestOfN", "N": 2, "reward": LISBON, "threshold": 1.0, "of": "dspy.ReAct"},
        [next_tool("finish"), PORTO_THEN_LISBON[0], next_tool("finish"), PORTO_THEN_LISBON[1]],
        options={"tools": ["double"]},
    ),
    "ProgramOfThought": Case(
        lambda: dspy.ProgramOfThought("question -> answer: int"),
        "dspy.ProgramOfThought",
        [
            {"reasoning": "a", "generated_code": "1 / 0"},
            {"reasoning": "b", "generated_code": "SUBMIT({'answer': 6 * 7})"},
            {"reasoning": "c", "answer": 42},
        ],
        signature="question -> answer: int",
    ),
    "CodeAct": Case(
        lambda: dspy.CodeAct(QA, tools=[double]),
        "dspy.CodeAct",
        [
            {"generated_code": "```python\nprint(double(4))\n```", "finished": False},
            {"generated_code": "print(double(n=5))", "finished": True},
            {"reasoning": "r", "answer": "10"},
        ],
        options={"tools": ["double"]},
    ),
    "ProgramOfThought with its own reasoning": Case(
        lambda: dspy.ProgramOfThought(OWN),
        "dspy.ProgramOfThought",
        [{"reasoning": "b", "generated_code": "SUBMIT({'answer': '4', 'reasoning': ['x']})"}, REASONED],
        signature=OWN,
    ),
    "CodeAct with its own reasoning": Case(
        lambda: dspy.CodeAct(OWN, tools=[double]),
        "dspy.CodeAct",
        [{"generated_code": "print(double(n=5))", "finished": True}, REASONED],
        signature=OWN,
        options={"tools": ["double"]},
    ),
    "RLM": Case(
        lambda: dspy.RLM(QA, tools=[double], max_iters=5),
        "dspy.RLM",
        [
            {"reasoning": "look", "code": "print(len(question), double(4), llm_query('sum up'))"},
            "in short",
            {"reasoning": "done", "code": "import dspy\nSUBMIT(dspy.Predict('q -> a: int')(q='x').a)"},
            {"a": 7},
        ],
        options={"tools": ["double"], "max_iters": 5},
    ),
    "Flex": Case(lambda: dspy.Flex(QA), "dspy.Flex", [{"answer": "from the code"}]),
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortProcess]:
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "parity_tools.py").write_text(APPLICATION.replace("{values!r}", repr(VALUES)))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with PortProcess(["--preload=parity_tools"], environment={"PYTHONPATH": path}) as started:
        yield started


def script(server: ModelServer, replies: list[Any]) -> None:
    server.requests.clear()
    server.script("parity", *({"content": reply} if isinstance(reply, str) else {"fields": reply} for reply in replies))


def bodies(server: ModelServer) -> list[dict[str, Any]]:
    return [without_reward_code(request.body) for request in server.requests]


def plainly(server: ModelServer, case: Case) -> tuple[dict[str, Any], Any, list[dict[str, Any]]]:
    """Run plain DSPy; return the prediction's fields, its usage, and the requests."""
    script(server, case.replies)
    lm = dspy.LM(f"openai/{MODEL}", api_base=f"{server.url}/v1", api_key="sk-parity-key", cache=False, num_retries=0)
    with (
        sandboxes.Sandboxes() as opened,
        dspy.context(lm=lm, trace=[], track_usage=True, interpreter_factory=opened.factory),
    ):
        prediction = case.build()(*case.given, **case.inputs)
    return {name: plain(value) for name, value in prediction.items()}, prediction.get_lm_usage(), bodies(server)


def through_the_port(
    port: PortProcess, server: ModelServer, case: Case
) -> tuple[dict[str, Any], Any, list[dict[str, Any]]]:
    script(server, case.replies)
    inputs = {**case.inputs, **({"completions": case.given[0]} if case.given else {})}
    options = {**case.options, "lm": openai(server, MODEL)}
    prediction = port.done("execute_module", case.module, case.signature, inputs, options)
    return {name: value for name, value in prediction.items() if name != "$meta"}, prediction["$meta"], bodies(server)


# Those of two kinds at once, in a sandbox, take long.
LONG: Final = ("ProgramOfThought with its own reasoning", "CodeAct with its own reasoning")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in CASES])
def test_answer_prompts_and_usage_are_those_of_plain_dspy(
    port: PortProcess, model_server: ModelServer, name: str
) -> None:
    case = CASES[name]
    fields, usage, asked = plainly(model_server, case)
    port_fields, meta, port_asked = through_the_port(port, model_server, case)
    assert asked
    for number, (mine, theirs) in enumerate(zip(port_asked, asked, strict=True)):
        assert mine == theirs, f"request {number}"
    assert port_fields == fields
    if name != "Refine":
        # The scripted model counts characters as tokens, including those of the reward's code.
        assert meta["usage"] == usage


def test_every_module_is_compared() -> None:
    compared = {name.partition(" ")[0] for name in CASES}
    modules = {
        name
        for name, member in vars(dspy).items()
        if isinstance(member, type) and issubclass(member, dspy.Module) and member is not dspy.Module
    }
    assert compared == modules


def test_parallel_gives_what_a_batch_gives(port: PortProcess, model_server: ModelServer) -> None:
    questions = [f"question {number}" for number in range(5)]
    lm = dspy.LM("openai/echo", api_base=f"{model_server.url}/v1", api_key="sk-parity-key", cache=False)
    predict = dspy.Predict(QA)
    with dspy.context(lm=lm):
        pairs = [(predict, {"question": question}) for question in questions]
        expected = dspy.Parallel(disable_progress_bar=True, timeout=0)(pairs)
    inputs = [{"question": question} for question in questions]
    results = port.done("execute_batch", "dspy.Predict", QA, inputs, {"lm": openai(model_server, "echo")})
    assert [prediction["answer"] for _, prediction in results] == [prediction.answer for prediction in expected]


def test_markers_in_data_stay_text_where_dspy_makes_a_part_of_the_prompt(
    port: PortProcess, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (base_type, _legacy_type_markers):
        # DSPy's own markers, in this process too.
        monkeypatch.setattr(module, "CUSTOM_TYPE_START_IDENTIFIER", "<<CUSTOM-TYPE-START-IDENTIFIER>>")
        monkeypatch.setattr(module, "CUSTOM_TYPE_END_IDENTIFIER", "<<CUSTOM-TYPE-END-IDENTIFIER>>")
    part = '[{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]'
    text = f"<<CUSTOM-TYPE-START-IDENTIFIER>>{part}<<CUSTOM-TYPE-END-IDENTIFIER>>"
    case = Case(lambda: dspy.Predict(QA), "dspy.Predict", [{"answer": "x"}], inputs={"question": text})
    _, _, (asked,) = plainly(model_server, case)
    _, _, (port_asked,) = through_the_port(port, model_server, case)
    assert "markers" in INTENDED
    assert "image_url" in [part["type"] for part in asked["messages"][-1]["content"] if isinstance(part, dict)]
    assert isinstance(port_asked["messages"][-1]["content"], str)
