"""A key in the wrong place of a spec is an error that says where it belongs."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.programs.execution.call_options import COMMON_OPTIONS, MODULE_CALL_OPTIONS
from erlport_bridge.programs.models import GENERATION_SETTINGS
from erlport_bridge.programs.pipelines import misplaced
from tests.port_process import PortProcess

QA = "question -> answer"
IN_MODULE = "it belongs to a module: modules: [%{module: …, {name}: …}]"
IN_CONFIG = "settings stand in the program's config: config: %{{name}: …}"
OF_CALL = "it is an option of the call, beside the spec: execute_module(spec, signature, inputs, {name}: …)"


def said(template: str, name: str) -> str:
    return template.replace("{name}", name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tools", IN_MODULE),
        ("max_iters", IN_MODULE),
        ("reward", IN_MODULE),
        ("of", IN_MODULE),
        ("temperature", IN_CONFIG),
        ("demos", "a program has demos from compile_program, such as with dspy.LabeledFewShot"),
        ("session_id", "it is an option, in the argument after the spec"),
        ("adapter", "it is an option of the calls of the program"),
        ("model", "the program's own model is lm"),
        ("stages", "a list of stages is modules"),
    ],
)
def test_a_key_of_a_program_says_where_it_belongs(shared_port: PortProcess, name: str, hint: str) -> None:
    details = shared_port.failed("create_program", {"signature": QA, "modules": ["dspy.ReAct"], name: []})
    assert (details["kind"], details["path"]) == ("input", f"spec.{name}")
    assert details["message"].startswith(f'unknown key "{name}" at spec; {said(hint, name)}; known here: config, ')


@pytest.mark.parametrize("name", ["lm", "modules", "signature", "history", "max_cost"])
def test_a_key_of_the_spec_among_the_options_says_where_it_belongs(shared_port: PortProcess, name: str) -> None:
    details = shared_port.failed("create_program", QA, {name: "x"})
    hint = f"it belongs to the spec, the first argument: %{{signature: …, {name}: …}}"
    assert details["message"] == f'unknown option "{name}" at opts; {hint}; known here: session_id'


@pytest.mark.parametrize("place", ["spec", "spec.options", "spec.of"])
@pytest.mark.parametrize("name", ["lm", "temperature", "timeout", "demos"])
def test_an_option_of_a_call_in_the_spec_says_where_it_belongs(shared_port: PortProcess, name: str, place: str) -> None:
    spec: dict[str, Any] = {"module": "dspy.Predict", name: 1}
    if place == "spec.options":
        spec = {"module": "dspy.Predict", "options": {name: 1}}
    elif place == "spec.of":
        spec = {"module": "dspy.BestOfN", "reward": {"check": "words", "field": "answer"}, "of": spec}
    details = shared_port.failed("execute_module", spec, QA, {"question": "x"})
    assert details["path"] == f"{place}.{name}"
    assert f'"{name}" at {place}; {said(OF_CALL, name)}; known here: ' in details["message"]


@pytest.mark.parametrize(
    ("name", "hint"), [("temperature", IN_CONFIG), ("timeout", "it is an option of the calls of the program")]
)
def test_an_option_of_a_stage_says_where_it_belongs(shared_port: PortProcess, name: str, hint: str) -> None:
    spec = {"modules": [{"module": "dspy.Predict", "signature": QA, name: 1}]}
    details = shared_port.failed("create_program", spec)
    assert f'"{name}" at spec.modules[0]; {said(hint, name)}; known here: ' in details["message"]


def test_options_of_a_call_are_those_that_calls_take() -> None:
    assert set(misplaced.IN_MODULE) <= {*COMMON_OPTIONS, *MODULE_CALL_OPTIONS, *GENERATION_SETTINGS}
