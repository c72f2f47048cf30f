"""Hostile names, specs and options import nothing, read nothing, open no file or address, and cost no request."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
CHECK = {"check": "equals", "field": "answer", "value": "x"}


class Traps:
    """Traps that must stay untouched: a module that leaves a trace, a named pipe, and an address that counts."""

    def __init__(self, folder: Path) -> None:
        self.trace = folder / "imported"
        (folder / "trap.py").write_text(f"open({str(self.trace)!r}, 'w').close()\nclass Trap: pass\n")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/x"

    def assert_untouched(self) -> None:
        """Fail if a module was imported, or something has connected."""
        assert not self.trace.exists()
        with pytest.raises(BlockingIOError):
            self.listener.accept()


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traps]:
    found = Traps(tmp_path_factory.mktemp("traps"))
    yield found
    found.listener.close()


@pytest.fixture(scope="module")
def trapped_port(traps: Traps) -> Iterator[PortProcess]:
    path = os.pathsep.join([str(traps.trace.parent), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "A_SECRET": "hunter2-of-the-host"}
    with PortProcess(["--modules=dspy_bridge"], environment=environment) as port:
        port.done("configure_lm", "embedded", {})
        yield port


def best(of: Any, **options: Any) -> dict[str, Any]:
    return {"module": "dspy.BestOfN", "reward": CHECK, "of": of, **options}


NAMES = [
    *("trap.Trap", "trap", "dspy.trap", "dspy.primitives.Module", "dspy.settings", "dspy.LM", "dspy.PythonInterpreter"),
    *("__import__('trap')", "dspy.Predict.__class__", "../trap", "os.environ", "dspy.Predict\n", " dspy.Predict"),
    *(
        "dspy.predict",
        "DSPY.PREDICT",
        "dspy..Predict",
        "dspy.Predict;import trap",
        "x" * 100_000,
        "\x00",
        "dspy_bridge",
    ),
]
SPECS = [
    *(name for name in NAMES),
    *({"module": name} for name in NAMES),
    *(best(name) for name in NAMES),
    *(best(best({"module": name})) for name in NAMES[:4]),
    best("dspy.Predict", reward={"check": "trap.Trap", "field": "answer"}),
    best("dspy.Predict", reward={"check": "__class__", "field": "answer"}),
    best("dspy.Predict", reward={"callback": {"a": 1}}),
    best("dspy.Predict", interpreter_factory="trap.Trap"),
    best("dspy.Predict", reward_fn="lambda *_: __import__('trap')"),
    {"module": "dspy.ReAct", "tools": ["trap.Trap"]},
    {"module": "dspy.CodeAct", "tools": [{"name": "t", "description": "d", "func": "trap.Trap"}]},
    {"module": "dspy.RLM", "interpreter_factory": "trap.Trap"},
    {"module": "dspy.RLM", "sub_lm": "trap/x"},
    {"module": "dspy.Flex", "module_src": "import trap"},
    {"module": "dspy.Retrieve", "retriever": "trap.Trap"},
    {"module": "dspy.Retrieve", "passages": ["x"], "embedder": "trap.Trap"},
    {"module": "dspy.ChainOfThought", "rationale_field_type": "trap.Trap"},
    {"module": "dspy.Predict", "signature": "question: trap.Trap -> answer"},
    {"module": "dspy.Predict", "options": {"__class__": "trap.Trap"}},
    {"module": "dspy.Predict", "__init__": "trap"},
]


@pytest.mark.parametrize("number", range(len(SPECS)))
def test_spec_is_refused_and_touches_nothing(
    trapped_port: PortProcess, traps: Traps, model_server: ModelServer, number: int
) -> None:
    options = {"lm": openai(model_server, "answer")}
    details = trapped_port.failed("execute_module", SPECS[number], QA, {"question": traps.address}, options)
    assert details["kind"] in ("module_not_found", "input", "signature", "tool", "provider"), details
    assert details["path"]
    assert len(details["message"]) < 1_500
    assert "hunter2-of-the-host" not in str(details)
    stored = trapped_port.failed("create_program", {"signature": QA, "modules": [SPECS[number]]})
    assert stored["kind"] in ("module_not_found", "input", "signature", "tool", "provider")
    assert model_server.requests == []
    traps.assert_untouched()


@pytest.mark.parametrize("depth", [100, 400])
def test_spec_that_nests_deep_is_refused(trapped_port: PortProcess, depth: int) -> None:
    spec: Any = "dspy.Predict"
    for _ in range(depth):
        spec = best(spec)
    assert "at most 5 modules" in trapped_port.failed("execute_module", spec, QA, "x")["message"]


@pytest.mark.parametrize(
    "reference",
    [
        "first.__class__",
        "first._store",
        "__globals__.x",
        "first.reply.x",
        "os.environ",
        "inputs._",
        "self",
        "inputs.lm",
    ],
)
def test_wiring_reads_nothing_but_fields(trapped_port: PortProcess, reference: str) -> None:
    stages = [
        {"name": "first", "module": "dspy.Predict", "signature": "question -> reply"},
        {"module": "dspy.Predict", "signature": "said -> answer", "inputs": {"said": reference}},
    ]
    assert trapped_port.failed("create_program", {"modules": stages})["path"] == "spec.modules[1].inputs.said"
