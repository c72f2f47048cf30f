"""A port offers the application's modules that it was started with, and no others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

APPLICATION = '''
import dspy


class Support(dspy.Module):
    """Answers a customer.

    Twice.
    """

    def __init__(self, tone: str = "kind", tries: int = 1, adapter=None):
        super().__init__()
        self.tone, self.tries = tone, tries
        self.reply = dspy.Predict("message, tone -> reply")

    def forward(self, message: str, urgent: bool = False) -> dspy.Prediction:
        return self.reply(message=message, tone=f"{self.tone} {self.tries} {urgent}")


class Awaited(dspy.Module):
    signature = dspy.Signature("question: str, k: int -> answer: str, scores: list[float]", "Score it.")

    def __init__(self):
        super().__init__()
        self.predict = dspy.ChainOfThought(self.signature)

    async def aforward(self, **inputs):
        return await self.predict.acall(**inputs)


class Blocking(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question: str):
        return self.predict(question=question)


class AnyInputs(dspy.Module):
    def forward(self, **inputs):
        return dict(inputs, count=len(inputs))


class Odd(dspy.Module):
    def forward(self, text):
        return 42


class NotOffered(dspy.Module):
    def forward(self, text):
        return {"text": text}


class NeedsMore(dspy.Module):
    def __init__(self, something):
        super().__init__()


def function():
    pass
'''
NAMES = [f"shop.programs.{name}" for name in ("Support", "Awaited", "Blocking", "AnyInputs", "Odd")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "shop").mkdir()
    (folder / "shop" / "programs.py").write_text(APPLICATION)
    (folder / "shop" / "broken.py").write_text("import no_such_module")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def shop(environment: dict[str, str]) -> Iterator[PortProcess]:
    with PortProcess([f"--program-modules={','.join(NAMES)}"], environment=environment) as port:
        port.done("configure_lm", "embedded", {})
        yield port


def run(port: PortProcess, server: ModelServer, module: Any, signature: Any, inputs: Any, **options: Any) -> Any:
    return port.operate("execute_module", module, signature, inputs, {"lm": openai(server, "echo"), **options})[1]


def test_modules_are_listed_and_described(shop: PortProcess) -> None:
    assert shop.done("list_modules")[-len(NAMES) :] == NAMES
    described = shop.done("describe_module", "shop.programs.Support")
    assert described["summary"] == "Answers a customer."
    assert {name: option["default"] for name, option in described["options"].items()} == {"tone": "kind", "tries": 1}
    assert (described["signature"], described["optional_inputs"]) == ("message: str -> ", ["urgent"])
    assert described["runs_in_thread"]
    awaited = shop.done("describe_module", "shop.programs.Awaited")
    assert awaited["signature"] == "question: str, k: int -> answer: str, scores: list[float]"
    assert not awaited["runs_in_thread"]


def test_module_runs_with_its_inputs_and_options(shop: PortProcess, model_server: ModelServer) -> None:
    module = {"module": "shop.programs.Support", "tone": "stern"}
    prediction = run(shop, model_server, module, None, {"message": "Help!", "urgent": True})
    assert prediction["reply"] == "Help!"
    assert "stern 1 True" in str(model_server.requests[0].body)
    by_options = run(shop, model_server, "shop.programs.Support", None, "Help!", tries=3)
    assert by_options["reply"] == "Help!"
    assert "kind 3 False" in str(model_server.requests[1].body)
    assert by_options["$meta"]["usage"]["openai/echo"]["total_tokens"] > 0


def test_module_that_can_be_awaited_is_awaited(shop: PortProcess, model_server: ModelServer) -> None:
    prediction = run(shop, model_server, "shop.programs.Awaited", None, {"question": "Q", "k": 2})
    assert prediction["answer"] == "Q"


def test_module_of_any_inputs_takes_a_signature_from_its_caller(shop: PortProcess, model_server: ModelServer) -> None:
    name = "shop.programs.AnyInputs"
    prediction = run(shop, model_server, name, "a: int, b -> count: int", {"a": 1, "b": "x"})
    assert (prediction["count"], prediction["a"]) == (2, 1)
    assert run(shop, model_server, name, None, {"a": 1})[1]["kind"] == "signature"


def test_module_is_a_stage_and_is_run_by_others(shop: PortProcess, model_server: ModelServer) -> None:
    stages = [
        {"module": "dspy.Predict", "signature": "topic -> message"},
        {"name": "support", "module": "shop.programs.Support", "tone": "calm"},
    ]
    program = shop.done("create_program", {"modules": stages, "outputs": ["message"]})
    prediction = shop.done("execute_program", None, program["id"], {"topic": "T"}, {"lm": openai(model_server, "echo")})
    assert prediction["message"] == "T"
    reward = {"check": "equals", "field": "reply", "input": "message"}
    best = {"module": "dspy.BestOfN", "N": 3, "threshold": 1, "reward": reward, "of": "shop.programs.Support"}
    model_server.requests.clear()
    assert run(shop, model_server, best, None, {"message": "Help!"})["reply"] == "Help!"
    assert len(model_server.requests) == 1


@pytest.mark.parametrize(
    ("module", "signature", "inputs", "kind", "message"),
    [
        ("shop.programs.NotOffered", None, {"text": "x"}, "module_not_found", "unknown module"),
        ("shop.programs.function", None, {}, "module_not_found", "unknown module"),
        ("shop.broken.Anything", None, {}, "module_not_found", "unknown module"),
        ("shop.programs.Suport", None, {}, "module_not_found", 'did you mean "shop.programs.Support"?'),
        ("shop.programs.Support", None, {"mesage": "x"}, "input", 'did you mean "message"?'),
        ("shop.programs.Support", None, {"message": 7}, "input", "expected a string at inputs.message"),
        ("shop.programs.Support", None, {"message": "x", "urgent": 1}, "input", "inputs.urgent"),
        ("shop.programs.Support", "a -> b", {"a": "x"}, "signature", "has its own"),
        ({"module": "shop.programs.Support", "tries": "3"}, None, {"message": "x"}, "input", "spec.tries"),
        (
            "shop.programs.Odd",
            None,
            {"text": "x"},
            "internal",
            "expected a dspy.Prediction from shop.programs.Odd, got 42",
        ),
    ],
)
def test_wrong_call_is_named(
    shop: PortProcess, module: Any, signature: Any, inputs: Any, kind: str, message: str
) -> None:
    details = shop.failed("execute_module", module, signature, inputs)
    assert details["kind"] == kind, details
    assert message in details["message"]


def test_model_that_a_module_does_not_await_is_accounted_for_too(shop: PortProcess, model_server: ModelServer) -> None:
    shop.done("reset_metrics")
    lm = openai(model_server, "gpt-4o-mini", cache=True)
    first, second = (run(shop, model_server, "shop.programs.Blocking", None, "Q", lm=lm)["$meta"] for _ in range(2))
    assert first["cost"] > 0
    assert (first["cache_hits"], second["cache_hits"], second["cost"]) == (0, 1, 0.0)
    model = shop.done("metrics")["models"]["openai/gpt-4o-mini"]
    assert (model["calls"], model["cache_hits"], model["cost"]) == (2, 1, first["cost"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop.programs.Missing", "shop.programs has no subclass of dspy.Module of that name"),
        ("shop.programs.function", "has no subclass of dspy.Module"),
        ("shop.broken.Anything", "No module named 'no_such_module'"),
        ("shop.programs.NeedsMore", 'the parameter "something" of its constructor needs a default'),
        ("Support", "with its module"),
    ],
)
def test_port_does_not_start_with_a_module_that_is_not_there(
    environment: dict[str, str], name: str, message: str
) -> None:
    with PortProcess([f"--program-modules={name}"], environment=environment) as port:
        assert port.process.wait(60) == 1
        said = port.stderr_text()
    assert f'cannot offer the module "{name}"' in said
    assert message in said


def test_code_that_does_not_await_its_model_asks_the_next_one_too(shop: PortProcess, model_server: ModelServer) -> None:
    lm = [openai(model_server, "status-503"), openai(model_server, "answer")]
    prediction = run(shop, model_server, "shop.programs.Blocking", None, "Q", lm=lm)
    assert prediction["answer"] == "answer to Q"
    assert prediction["$meta"]["model"] == "openai/answer"
    assert [failed["model"] for failed in prediction["$meta"]["failed_models"]] == ["openai/status-503"]


def test_code_that_does_not_await_its_model_cannot_wait_for_a_limit(
    shop: PortProcess, model_server: ModelServer
) -> None:
    lm = openai(model_server, "answer", requests_per_minute=1)
    assert run(shop, model_server, "shop.programs.Blocking", None, "Q", lm=lm)["answer"] == "answer to Q"
    details = shop.failed("execute_module", "shop.programs.Blocking", None, "Q", {"lm": lm})
    assert (details["kind"], details["retryable"]) == ("rate_limit", True)
    assert 50 < details["retry_after"] <= 60
    # A limit of one concurrent request is not reached by calls that follow one another.
    lm = openai(model_server, "answer", max_concurrent_requests=1)
    for _ in range(3):
        run(shop, model_server, "shop.programs.Blocking", None, "Q", lm=lm)
