"""Modules of the application without declared outputs are evaluated and compiled; what was compiled runs and loads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

APPLICATION = '''
import enum

import dspy
import pydantic


class Tone(enum.Enum):
    KIND = "kind"
    COLD = "cold"


class Found(pydantic.BaseModel):
    text: str
    rank: int = 1


class Lists(dspy.Module):
    """Passes a list to a field of text."""

    def __init__(self):
        super().__init__()
        self.reply = dspy.Predict("context, question -> answer")

    def forward(self, question: str, context=("one",)):
        return self.reply(context=list(context), question=question)


class Maps(dspy.Module):
    """Passes maps, numbers and nothing to fields of text, and gives a map."""

    def __init__(self):
        super().__init__()
        self.reply = dspy.Predict("facts, count, nothing, question -> answer")

    async def aforward(self, question):
        facts = [{"fact": question, "found": Found(text=question)}]
        prediction = await self.reply.acall(facts=facts, count=3, nothing=None, question=question)
        return {"answer": prediction.answer}


class Typed(dspy.Module):
    """Has fields of its own types."""

    def __init__(self):
        super().__init__()
        fields = {
            "question": (str, dspy.InputField()),
            "tone": (Tone, dspy.InputField()),
            "found": (list[Found], dspy.InputField()),
            "answer": (str, dspy.OutputField()),
        }
        self.reply = dspy.Predict(dspy.Signature(fields))

    def forward(self, **inputs):
        return self.reply(tone=Tone.KIND, found=[Found(text="a")], **inputs)
'''
NAMES = ["shop.programs.Lists", "shop.programs.Maps", "shop.programs.Typed"]
EXAMPLES = [{"question": f"q{number}", "answer": f"answer to q{number}"} for number in range(3)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortProcess]:
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "shop").mkdir()
    (folder / "shop" / "programs.py").write_text(APPLICATION)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    with PortProcess([f"--program-modules={','.join(NAMES)}"], environment=environment) as port:
        yield port


def made(port: PortProcess, server: ModelServer, module: str) -> Any:
    """Create a program; one module takes any inputs, which each program says by its signature."""
    spec: dict[str, Any] = {"modules": [module], "lm": openai(server, "echo")}
    spec |= {"signature": "question -> answer"} if module.endswith("Typed") else {}
    return port.done("create_program", spec)["id"]


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.parametrize("metric", ["exact_match", "f1", {"check": "contains", "field": "answer", "input": "answer"}])
def test_it_is_evaluated(shop: PortProcess, model_server: ModelServer, module: str, metric: Any) -> None:
    """The first output, which there is none of, was an internal error."""
    program = made(shop, model_server, module)
    report = shop.done("evaluate_program", None, program, EXAMPLES, {"metric": metric})
    assert (report["failed"], report["count"]) == (0, 3)


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.parametrize("optimizer", ["dspy.BootstrapFewShot", "dspy.LabeledFewShot"])
def test_what_was_compiled_runs_and_is_dumped_and_loaded(
    shop: PortProcess, model_server: ModelServer, module: str, optimizer: str
) -> None:
    """DSPy passes whatever a module gives to a field; the demo that was learned of it could not be read again."""
    program = made(shop, model_server, module)
    metric = {"check": "length", "field": "answer", "minimum": 1}
    opts = {"optimizer": optimizer, "metric": metric} if "Bootstrap" in optimizer else {"optimizer": optimizer}
    compiled = shop.done("compile_program", None, program, EXAMPLES, opts)["compiled"]
    assert sum(compiled["demos"].values()) > 0
    loaded = shop.done("load_program", shop.done("dump_program", None, program), {"lm": openai(model_server, "echo")})
    asked = []
    for one in (program, loaded["id"]):
        assert shop.done("execute_program", None, one, {"question": "new"})["answer"]
        asked.append(model_server.requests[-1].body["messages"])
    assert asked[0] == asked[1]
    assert "q0" in str(asked[0])


def test_optional_inputs_of_examples_reach_the_module(shop: PortProcess, model_server: ModelServer) -> None:
    program = made(shop, model_server, NAMES[0])
    examples = [{**EXAMPLES[0], "context": ["told by the example"]}]
    shop.done("evaluate_program", None, program, examples, {"metric": "f1"})
    assert "told by the example" in str(model_server.requests[-1].body)
    opts = {"optimizer": "dspy.BootstrapFewShot", "metric": {"check": "length", "field": "answer", "minimum": 1}}
    shop.done("compile_program", None, program, examples, opts)
    assert "told by the example" in str(model_server.requests[-1].body)


def test_a_named_metric_without_one_shared_field_says_what_to_write(
    shop: PortProcess, model_server: ModelServer
) -> None:
    program = made(shop, model_server, NAMES[0])
    report = shop.done("evaluate_program", None, program, [{"question": "q", "expected": "x"}], {"metric": "f1"})
    ((_, (_, details)),) = report["results"]
    assert (details["kind"], details["path"]) == ("input", "opts.metric")
    assert 'field: "answer"' in details["message"]
