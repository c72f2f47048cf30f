"""The arguments of a call are read once, and reading has no side effects."""

from __future__ import annotations

import contextvars
from typing import Any

import dspy
import pytest

from erlport_bridge import request as running_request
from erlport_bridge.errors import OperationError
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.execution.batch import BATCH_OPTIONS
from erlport_bridge.programs.execution.call_request import read_module_call, read_program_call
from erlport_bridge.programs.modules import catalogue
from erlport_bridge.programs.pipelines import pipeline
from erlport_bridge.programs.tools import elixir_tool
from erlport_bridge.programs.values import media
from erlport_bridge.term import Atom

QA = "question -> answer"
TOOL = {"name": "stock", "description": "Pieces in stock", "callback": "id-1"}
NESTED = {
    "module": "dspy.BestOfN",
    "N": 2,
    "reward": {"callback": "id-2"},
    "threshold": 1.0,
    "of": {"module": "dspy.ChainOfThought", "signature": QA},
}


def test_reading_changes_nothing_until_the_request_begins() -> None:
    before = dict(contextvars.copy_context().items())
    request = read_module_call(
        "dspy.ReAct", QA, {"request_id": "r-1", "allow_urls": True, "tools": [TOOL], "timeout": 1_000}
    )
    assert dict(contextvars.copy_context().items()) == before

    def begun() -> tuple[Any, ...]:
        request.begin()
        return running_request.request_id.get(), media.urls_are_allowed(), callbacks._ids.get()

    assert contextvars.copy_context().run(begun) == ("r-1", True, {"opts.tools[0]": "id-1"})


def test_functions_of_a_call_are_collected_by_their_places() -> None:
    request = read_module_call(NESTED, None, {})
    assert dict(request.functions) == {"spec.reward": "id-2"}
    # Each call has its own functions.
    assert not read_program_call({}).functions


def test_failed_reading_collects_no_function_for_the_next_call() -> None:
    with pytest.raises(OperationError):
        read_module_call("dspy.ReAct", QA, {"tools": [TOOL, {**TOOL, "name": 7}]})
    assert not read_module_call("dspy.ReAct", QA, {}).functions


@pytest.mark.parametrize(
    "opts",
    [
        {"timeout": "soon"},
        {"lm": 7},
        {"tools": [7]},
        {"n": 0},
        {"max_iters": 0},
        {"parse_retries": 11},
    ],
)
def test_error_of_a_wrong_option_has_the_id_of_its_request(opts: dict[str, Any]) -> None:
    with pytest.raises(OperationError) as caught:
        read_module_call("dspy.ReAct", QA, {**opts, "request_id": Atom("r-2")})
    assert caught.value.facts["request_id"] == "r-2"


def test_spec_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []
    find = catalogue.find_module

    def counted(name: object, path: str = "module") -> Any:
        found.append(name)
        return find(name, path)

    monkeypatch.setattr(catalogue, "find_module", counted)
    read_module_call(NESTED, None, {"temperature": 0.5})
    assert found == ["dspy.BestOfN", "dspy.ChainOfThought"]


def test_tool_of_elixir_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[dspy.Tool] = []
    build = elixir_tool.ElixirTool.build

    def counted(tool: elixir_tool.ElixirTool) -> dspy.Tool:
        built.append(build(tool))
        return built[-1]

    monkeypatch.setattr(elixir_tool.ElixirTool, "build", counted)
    request = read_module_call("dspy.ReAct", QA, {"tools": [{**TOOL, "name": "built_once"}]})
    assert not built
    pipeline.built((request.stage,))
    assert [tool.name for tool in built] == ["built_once"]


def test_options_of_the_operation_are_read_beside_those_of_the_call() -> None:
    request = read_module_call("dspy.Predict", QA, {"max_concurrency": 4, "temperature": 0}, BATCH_OPTIONS)
    assert request.own == {"max_concurrency": 4}
    assert request.options.settings == {"temperature": 0}
    assert request.options.warnings == ()


def test_options_of_another_operation_are_ignored_with_a_warning() -> None:
    request = read_module_call("dspy.Predict", QA, {"max_concurrency": 4, "version": 2})
    assert request.options.warnings == (
        'dspy.Predict takes no option "max_concurrency"; it was ignored',
        'dspy.Predict takes no option "version"; it was ignored',
    )


@pytest.mark.parametrize(
    ("given", "module", "path"),
    [
        ({"of": "dspy.Nothing"}, "dspy.BestOfN", "opts.of"),
        ({}, {"module": "dspy.BestOfN", "of": "dspy.Nothing"}, "spec.of"),
        ({}, {"module": "dspy.BestOfN", "options": {"of": {"module": "dspy.Nothing"}}}, "spec.of.module"),
    ],
)
def test_unknown_inner_module_is_reported_with_its_path(given: dict[str, Any], module: Any, path: str) -> None:
    with pytest.raises(OperationError) as caught:
        read_module_call(module, QA, given)
    assert (caught.value.kind, caught.value.facts["path"]) == ("module_not_found", path)


def test_inner_module_is_given_once() -> None:
    module = {"module": "dspy.BestOfN", "of": "dspy.Predict"}
    with pytest.raises(OperationError, match=r"expected of once, got it at opts\.of and at spec\.of"):
        read_module_call(module, QA, {"of": "dspy.Predict"})


@pytest.mark.parametrize(("item_timeout_ms", "timeout_ms"), [(None, 60_000), (100, 100), (90_000, 60_000)])
def test_item_has_the_shorter_budget(item_timeout_ms: int | None, timeout_ms: int) -> None:
    request = read_program_call({"timeout": 60_000})
    item = request.for_item(item_timeout_ms)
    assert item.options.timeout_ms == timeout_ms
    assert item.functions is request.functions
    left_s = item.left_s()
    assert left_s is not None
    assert left_s * 1000 <= timeout_ms


def test_tools_are_given_once() -> None:
    spec = {"module": "dspy.ReAct", "tools": ["calculator"]}
    assert read_module_call(spec, QA, {}).stage.tools == ("calculator",)
    with pytest.raises(
        OperationError, match=r"expected tools once, got them at spec\.tools and at opts\.tools"
    ) as caught:
        read_module_call(spec, QA, {"tools": ["today"]})
    assert caught.value.facts["path"] == "opts.tools"
