"""Concurrent calls of one cached module share nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.model_server import ModelServer
from tests.port_process import PortProcess

QA = "question -> answer"


@pytest.fixture(scope="module")
def port() -> Iterator[PortProcess]:
    """Yield a port with the embedded model."""
    with PortProcess(["--modules=dspy_bridge"]) as started:
        started.done("configure_lm", "embedded", {})
        yield started


def call_options(server: ModelServer, number: int) -> dict[str, Any]:
    """Return options that differ from call to call in everything."""
    options: dict[str, Any] = {
        "lm": {"provider": "openai", "model": f"model-{number}", "api_base": f"{server.url}/v1"},
        "temperature": 0.1 + number / 100,
        "request_id": f"request-{number}",
    }
    if number % 2:
        options["adapter"] = "json"
    if number % 3:
        options["demos"] = [{"question": f"demo-{number}-question", "answer": f"demo-{number}-answer"}]
    return options


@pytest.mark.parametrize("module", ["dspy.Predict", "dspy.ChainOfThought", "dspy.ReAct", "dspy.MultiChainComparison"])
def test_models_settings_adapters_and_demos_never_mix(
    port: PortProcess, model_server: ModelServer, module: str
) -> None:
    numbers = {}
    for number in range(24):
        arguments = [module, QA, {"question": f"Q{number}Q"}, call_options(model_server, number)]
        numbers[port.send_call("dspy_bridge", "execute_module", arguments)] = number
    for _ in range(24):
        _, call_id, (status, prediction) = port.receive()
        number = numbers.pop(call_id)
        assert status == "ok", prediction
        meta = prediction["$meta"]
        assert (meta["model"], meta["request_id"]) == (f"openai/model-{number}", f"request-{number}")
        assert list(meta["usage"]) == [f"openai/model-{number}"]
    assert len(model_server.requests) >= 24
    for request in model_server.requests:
        number = int(request.model.removeprefix("model-"))
        text = json.dumps(request.body)
        assert f"Q{number}Q" in text
        assert request.body["temperature"] == pytest.approx(0.1 + number / 100)
        demos = {other for other in range(24) if f"demo-{other}-" in text}
        assert demos <= ({number} if number % 3 else set())
        if module == "dspy.Predict":
            assert bool(demos) is bool(number % 3)
            assert ("JSON object" in text) is bool(number % 2)


def test_programs_of_thought_at_once_each_have_their_own_sandbox(port: PortProcess) -> None:
    asked = {
        port.send_call(
            "dspy_bridge",
            "execute_module",
            ["dspy.ProgramOfThought", "question -> answer: int", f"What is {number} * 1000?"],
        ): number
        for number in (3, 4, 5)
    }
    for _ in range(3):
        _, call_id, (_, prediction) = port.receive()
        assert prediction["answer"] == asked.pop(call_id) * 1000


def test_history_of_a_program_has_every_concurrent_call_once_and_its_bound(
    port: PortProcess, model_server: ModelServer
) -> None:
    lm = {"provider": "openai", "model": "answer", "api_base": f"{model_server.url}/v1"}
    program = port.done("create_program", {"signature": QA, "history": True, "lm": lm})
    told = {"conversation": "mine"}
    for _ in range(60):
        port.send_call("dspy_bridge", "execute_program", [None, program["id"], {"question": "Q-early"}, told])
    for _ in range(60):
        assert port.receive()[2][0] == "ok"
    port.done("execute_program", None, program["id"], {"question": "Q-last"}, told)
    messages = model_server.requests[-1].body["messages"]
    assert sum("Q-early" in json.dumps(message) for message in messages if message["role"] == "user") == 50
    assert port.done("list_programs", program["session_id"])[0]["calls"] == 61
    port.done("close_session", program["session_id"])


def test_session_closed_during_a_call_does_not_disturb_it(port: PortProcess, model_server: ModelServer) -> None:
    lm = {"provider": "openai", "model": "delay-300", "api_base": f"{model_server.url}/v1"}
    program = port.done("create_program", {"signature": QA, "history": True, "lm": lm}, {"session_id": "closing"})
    arguments = ["closing", program["id"], {"question": "x"}, {"conversation": "mine"}]
    running = port.send_call("dspy_bridge", "execute_program", arguments)
    model_server.wait_for_requests(1)
    closing = port.send_call("dspy_bridge", "close_session", ["closing"])
    answers = {answer[1]: answer[2] for answer in (port.receive(), port.receive())}
    assert answers[closing][0] == "ok"
    assert answers[running][1]["answer"] == "answer to x"
    assert port.failed("execute_program", "closing", program["id"], {"question": "x"})["kind"] == "session_not_found"


def test_two_thousand_calls_leave_nothing_in_memory(port: PortProcess) -> None:
    """DSPy keeps histories and traces of whole prompts by default."""
    long_text = "A sentence of the text. " * 1_000

    def ask(count: int) -> int:
        for _ in range(count // 50):
            port.done("execute_batch", "dspy.ChainOfThought", "context, question -> answer", [inputs] * 50)
        return int(port.done("metrics")["memory_bytes"])

    inputs = {"context": long_text, "question": "What is it?"}
    before = ask(200)
    # Kept prompts would take a multiple of 2,000 times 24 kB.
    assert ask(2_000) - before < 40 << 20
