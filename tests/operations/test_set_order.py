"""A set has no order: its elements come in one order in the prompts of all processes.

Python's order of a set depends on the hashes of its texts, which differ between processes (``PYTHONHASHSEED``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

SEEDS = ("1", "2", "3")
WORDS = frozenset(["delta", "beta", "alpha", "gamma", "epsilon", "é"])
MIXED = frozenset(["delta", "beta", "alpha", 2, 1.5, None, ("b", None), ("a", 1)])

APPLICATION = '''
from dataclasses import dataclass

from erlport_bridge.programs.tools import offer

WORDS = {"delta", "beta", "alpha", "gamma", "epsilon"}


@dataclass(frozen=True)
class Found:
    words: set


@offer
def words() -> set:
    """Return a set."""
    return WORDS


@offer
def nested() -> list:
    """Return sets in a list."""
    return [WORDS, {frozenset(WORDS), frozenset("ab")}]


@offer
def found() -> Found:
    """Return an object with a set."""
    return Found(WORDS)


@offer
def kind(words: set[str]) -> str:
    """Return what a tool gets."""
    return type(words).__name__
'''

OBJECTS = {"inputs": {"person": {"name": "str", "tags": "set[str]", "more": "dict[str, set[str]]"}}, "outputs": ["a"]}
PERSON = {"person": {"name": "n", "tags": set(WORDS), "more": {"x": set(WORDS)}}}
DEMO = {"words": set(WORDS), "a": "x"}
TURN = {"words": set(WORDS), "a": "x"}

# Name -> signature, inputs and options.
INPUTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a set": ("words: set[str] -> a", {"words": set(WORDS)}, {}),
    "a list of sets": ("words: list[set[str]] -> a", {"words": [set(WORDS), set(WORDS)]}, {}),
    "mixed elements": ("words: Any -> a", {"words": set(MIXED)}, {}),
    "nested": ("words: Any -> a", {"words": [{"k": set(WORDS)}, (1, set(MIXED))]}, {}),
    "an object": (OBJECTS, PERSON, {}),
    "demos": ("words: set[str] -> a", {"words": set(WORDS)}, {"demos": [DEMO]}),
    "outputs of demos": ("q -> words: set[str]", {"q": "x"}, {"demos": [{"q": "x", "words": set(WORDS)}]}),
    "a history": ("words: Any, history: dspy.History -> a", {"words": "x", "history": [TURN]}, {}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """Yield a provider that all cases share."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PortProcess]]:
    """Yield a port of each seed."""
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "sets_application.py").write_text(APPLICATION)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    opened = [
        PortProcess(
            ["--modules=dspy_bridge", "--preload=sets_application"],
            environment={"PYTHONHASHSEED": seed, "PYTHONPATH": path, "DSPEX_WARM_SANDBOXES": "0"},
        )
        for seed in SEEDS
    ]
    for port in opened:
        port.__enter__()
    yield opened
    for port in opened:
        port.__exit__(None, None, None)


def requests_of(server: ModelServer, ports: list[PortProcess], ask: Callable[[PortProcess], Any]) -> str:
    """Return the requests of a call, which must be the same from each process."""
    found = set()
    for port in ports:
        before = len(server.requests)
        ask(port)
        assert len(server.requests) > before
        found.add(json.dumps([request.body for request in server.requests[before:]], ensure_ascii=False))
    (requests,) = found
    return requests


@pytest.mark.parametrize("adapter", ["chat", "json", "xml", "two_step"])
@pytest.mark.parametrize("case", INPUTS)
def test_prompts_show_sets_in_one_order(server: ModelServer, ports: list[PortProcess], case: str, adapter: str) -> None:
    signature, inputs, options = INPUTS[case]
    lm = openai(server, "x")
    form: Any = {"name": adapter, "extraction_model": lm} if adapter == "two_step" else adapter
    options = {**options, "lm": lm, "adapter": form}

    def ask(port: PortProcess) -> None:
        port.operate("execute_module", "dspy.Predict", signature, inputs, options)

    sent = requests_of(server, ports, ask)
    assert sent.index("alpha") < sent.index("beta") < sent.index("delta")


@pytest.mark.parametrize("tool", ["words", "nested", "found"])
@pytest.mark.parametrize("module", ["dspy.ReAct", "dspy.ReActV2"])
def test_observations_show_sets_in_one_order(
    server: ModelServer, ports: list[PortProcess], module: str, tool: str
) -> None:
    step: dict[str, Any] = {"next_thought": "-", "next_tool_name": tool, "next_tool_args": {}}
    if module == "dspy.ReActV2":
        step = {"next_thought": "-", "tool_calls": {"tool_calls": [{"name": tool, "args": {}}]}}

    def ask(port: PortProcess) -> None:
        server.script("steps", {"fields": step}, {"fields": step})
        options = {"lm": openai(server, "scripted:steps"), "tools": [tool], "max_iters": 2}
        port.operate("execute_module", module, "q -> a", "x", options)

    sent = requests_of(server, ports, ask)
    assert sent.index("alpha") < sent.index("beta") < sent.index("delta")


def test_tool_gets_a_set(server: ModelServer, ports: list[PortProcess]) -> None:
    step = {"next_thought": "-", "next_tool_name": "kind", "next_tool_args": {"words": ["b", "a"]}}

    def ask(port: PortProcess) -> None:
        server.script("steps", {"fields": step}, {"fields": step})
        options = {"lm": openai(server, "scripted:steps"), "tools": ["kind"], "max_iters": 2}
        port.operate("execute_module", "dspy.ReAct", "q -> a", "x", options)

    assert "## observation_0 ## ]]\\nset\\n" in requests_of(server, ports, ask)


@pytest.mark.long  # a sandbox of each port
def test_variables_of_dspy_rlm_are_described_in_one_order(server: ModelServer, ports: list[PortProcess]) -> None:
    def ask(port: PortProcess) -> None:
        server.script("code", {"fields": {"reasoning": "-", "code": "SUBMIT(str([words, person]))"}})
        inputs = {"words": set(MIXED), **PERSON}
        signature = {"inputs": {"words": "Any", **OBJECTS["inputs"]}, "outputs": ["a"]}  # type: ignore[dict-item]
        prediction = port.done("execute_module", "dspy.RLM", signature, inputs, {"lm": openai(server, "scripted:code")})
        answers.add(prediction["a"])

    answers: set[str] = set()
    sent = requests_of(server, ports, ask)
    assert sent.index("alpha") < sent.index("beta") < sent.index("delta")
    assert len(answers) == 1
