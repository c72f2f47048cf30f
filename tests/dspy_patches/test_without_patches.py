"""A port whose DSPy differs everywhere reports it, works without patches, and refuses what would be wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from erlport_bridge.dspy_patches.table import PATCHES
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

CHANGED = """
from erlport_bridge.dspy_patches import installing

installing.difference = lambda expected: "it has changed"
"""
QA = "question -> answer"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process that can import ``changed_dspy``."""
    folder = tmp_path_factory.mktemp("changed")
    (folder / "changed_dspy.py").write_text(CHANGED)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def plain_port(environment: dict[str, str]) -> Iterator[PortProcess]:
    """Yield a port without any patch."""
    with PortProcess(["--modules=dspy_bridge", "--preload=changed_dspy"], environment=environment) as port:
        port.done("configure_lm", "embedded", {})
        yield port


def test_ping_lists_what_is_left_out(plain_port: PortProcess) -> None:
    lines = plain_port.done("ping")["dspy_patches_left_out"]
    assert sorted(lines) == sorted(f"{patch.name}: it has changed; {patch.without}" for patch in PATCHES)


def test_each_left_out_patch_has_one_warning(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", "import changed_dspy, dspy_bridge"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    warned = [line for line in done.stderr.splitlines() if "left out the patch" in line]
    assert len(warned) == len(PATCHES)
    for patch in PATCHES:
        assert sum(f" {patch.name}: it has changed; {patch.without}" in line for line in warned) == 1


def without_times(prediction: dict[str, Any]) -> dict[str, Any]:
    meta = {key: value for key, value in prediction["$meta"].items() if key not in ("duration_ms", "request_id", "pid")}
    return {**prediction, "$meta": meta}


@pytest.mark.parametrize(
    ("module", "adapter"),
    [
        ("dspy.Predict", "chat"),
        ("dspy.Predict", "json"),
        ("dspy.ChainOfThought", "xml"),
        ("dspy.ProgramOfThought", "chat"),
    ],
)
def test_predictions_are_the_same(plain_port: PortProcess, shared_port: PortProcess, module: str, adapter: str) -> None:
    arguments = (module, QA, {"question": "What is 6 * 7?"}, {"adapter": adapter})
    plain, patched = (port.done("execute_module", *arguments) for port in (plain_port, shared_port))
    assert without_times(plain) == without_times(patched)


def test_typed_answers_are_the_same(
    plain_port: PortProcess, shared_port: PortProcess, model_server: ModelServer
) -> None:
    signature = "question -> count: int, parts: list[str], level: Literal['low', 'high'], ratio: float"
    fields = {"count": 7, "parts": ["a", "b"], "level": "high", "ratio": 0.25}
    answers = []
    for port in (plain_port, shared_port):
        model_server.script("typed", {"fields": fields})
        options = {"lm": openai(model_server, "scripted:typed")}
        answers.append(port.done("execute_module", "dspy.Predict", signature, {"question": "?"}, options))
    plain, patched = map(without_times, answers)
    assert plain == patched
    assert fields.items() <= plain.items()


def refused(port: PortProcess, *call: Any) -> str:
    details = port.failed(*call)
    assert details["kind"] == "missing_dependency", details
    return str(details["message"])


def test_code_in_the_sandbox_that_could_have_modules_built_is_refused(
    plain_port: PortProcess, model_server: ModelServer
) -> None:
    options = {"lm": openai(model_server, "answer")}
    message = refused(plain_port, "execute_module", "dspy.RLM", QA, {"question": "?"}, options)
    assert message.startswith("modules that code in the sandbox builds are refused: the patch sandbox_signature")
    assert model_server.requests == []


def test_a_cache_is_refused(plain_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "answer", cache=True)}
    message = refused(plain_port, "execute_module", "dspy.Predict", QA, {"question": "?"}, options)
    assert message.startswith("models with cache: true are refused")


def test_images_are_refused(plain_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "answer")}
    image = {"$type": "Image", "url": "data:image/png;base64,iVBORw0KGgo="}
    message = refused(plain_port, "execute_module", "dspy.Predict", "i: dspy.Image -> a", {"i": image}, options)
    assert message.startswith("content parts of a prompt that are not text are refused")
    assert model_server.requests == []


def test_citations_are_refused(plain_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "answer")}
    signature = "question -> answer, quotes: dspy.Citations"
    message = refused(plain_port, "execute_module", "dspy.Predict", signature, {"question": "?"}, options)
    assert message.startswith("outputs of the type dspy.Citations are refused")


def test_optimizers_are_refused(plain_port: PortProcess) -> None:
    made = plain_port.done("create_program", {"modules": [{"module": "dspy.Predict", "signature": QA}]})
    examples = [{"question": "q", "answer": "a"}]
    options = {"optimizer": "dspy.LabeledFewShot", "metric": "exact_match"}
    message = refused(plain_port, "compile_program", made["session_id"], made["id"], examples, options)
    assert message.startswith("optimizers are refused: the patch optimizer_threads")
