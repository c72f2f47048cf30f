"""A stage of a program may have a language model of its own; models are not stored with a program."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

KEY = "sk-of-one-stage-1234"
MODEL = {"provider": "openai", "model": "a", "api_key": KEY}


def two_stages(cheap: Any, **of_cheap: Any) -> dict[str, Any]:
    draft = {"module": "dspy.ChainOfThought", "signature": "question -> draft", "name": "draft", "lm": cheap}
    return {"modules": [{**draft, **of_cheap}, {"module": "dspy.Predict", "signature": "draft -> answer"}]}


def scripted(server: ModelServer, name: str, *answers: str, **settings: Any) -> dict[str, Any]:
    server.script(name, *({"fields": {"draft": text, "answer": text, "reasoning": "r"}} for text in answers))
    return {**openai(server, f"scripted:{name}"), **settings}


def test_a_stage_asks_its_own_model(shared_port: PortProcess, model_server: ModelServer) -> None:
    cheap, strong = scripted(model_server, "cheap", "one"), scripted(model_server, "strong", "two")
    program = shared_port.done("create_program", {**two_stages(cheap), "lm": strong})
    assert [stage["lm"] for stage in program["stages"]] == ["openai/scripted:cheap", None]
    prediction = shared_port.done("execute_program", None, program["id"], {"question": "q"})
    assert [request.model for request in model_server.requests] == ["scripted:cheap", "scripted:strong"]
    assert set(prediction["$meta"]["usage"]) == {"openai/scripted:cheap", "openai/scripted:strong"}
    assert (prediction["answer"], prediction["$meta"]["model"]) == ("two", "openai/scripted:strong")


def test_programs_that_differ_only_in_the_model_of_a_stage(shared_port: PortProcess, model_server: ModelServer) -> None:
    """Equal stages share one module, which must not hold the model of one of them."""
    for name in ("first", "second"):
        spec = two_stages(scripted(model_server, name, "x"))
        program = shared_port.done("create_program", spec)
        opts = {"lm": scripted(model_server, "other", "y")}
        shared_port.done("execute_program", None, program["id"], {"question": "q"}, opts)
    assert [request.model for request in model_server.requests] == [
        *("scripted:first", "scripted:other", "scripted:second", "scripted:other")
    ]


def test_settings_of_the_call_go_first_and_those_of_the_program_last(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    own = scripted(model_server, "own", "a", "b", temperature=0.5)
    spec = {
        **two_stages(own),
        "lm": scripted(model_server, "all", "c", "d"),
        "config": {"temperature": 0.1, "top_p": 0.9},
    }
    program = shared_port.done("create_program", spec)
    for opts in ({}, {"temperature": 0.7}):
        shared_port.done("execute_program", None, program["id"], {"question": "q"}, opts)
    found = [(request.body["temperature"], request.body["top_p"]) for request in model_server.requests]
    assert found == [(0.5, 0.9), (0.1, 0.9), (0.7, 0.9), (0.7, 0.9)]


def test_stages_that_all_have_a_model_need_no_other(port: PortProcess, model_server: ModelServer) -> None:
    spec = two_stages(scripted(model_server, "alone", "one", "two"))
    spec["modules"][1] |= {"name": "reply", "lm": openai(model_server, "scripted:alone")}
    program = port.done("create_program", spec)
    assert port.done("execute_program", None, program["id"], {"question": "q"})["answer"] == "two"


def test_a_stage_keeps_its_model_while_it_is_compiled_and_evaluated(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    cheap, strong = scripted(model_server, "c", *["one"] * 9), scripted(model_server, "s", *["two"] * 9)
    program = shared_port.done("create_program", {**two_stages(cheap), "lm": strong})
    examples = [{"question": "q", "answer": "two"}]
    metric = {"check": "equals", "field": "answer", "input": "answer"}
    optimizer = {"optimizer": "dspy.BootstrapFewShot", "metric": metric}
    compiled = shared_port.done("compile_program", None, program["id"], examples, optimizer)
    assert compiled["compiled"]["demos"] == {"draft.predict": 1, "modules[1]": 1}
    shared_port.done("evaluate_program", None, program["id"], examples, {"metric": metric})
    asked = [request.model for request in model_server.requests]
    assert asked == ["scripted:c", "scripted:s"] * (len(asked) // 2)
    assert len(asked) >= 4


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ({"module": "dspy.Predict", "name": "draft", "lm": {"model": "a"}}, "draft"),
        ([("module", "dspy.Predict"), ("name", "draft"), ("lm", [("model", "a")])], "draft"),
        ({"module": "dspy.Predict", "name": "draft", "lm": [{"model": "a"}, {"model": "b"}]}, "draft"),
        ({"module": "dspy.RLM", "sub_lm": {"model": "a"}}, "sub_lm"),
        ({"module": "dspy.RLM", "options": {"sub_lm": {"model": "a"}}}, "sub_lm"),
        (
            {"module": "dspy.BestOfN", "reward": "call", "of": {"module": "dspy.RLM", "sub_lm": {"model": "a"}}},
            "sub_lm",
        ),
    ],
)
def test_a_stored_program_has_no_model_and_is_given_it_anew(shared_port: PortProcess, stage: Any, name: str) -> None:
    """The key of the option ``sub_lm`` stood in the text."""

    def with_key(value: Any) -> Any:
        if isinstance(value, list):
            return [with_key(item) for item in value]
        if isinstance(value, tuple):
            return value[0], with_key(value[1])
        if isinstance(value, dict) and "model" in value:
            return {**value, "provider": "openai", "api_key": KEY, "api_base": "http://127.0.0.1:9/v1"}
        return {key: with_key(item) for key, item in value.items()} if isinstance(value, dict) else value

    if isinstance(stage, list):  # a keyword list whose model is one too
        stage = [*stage[:-1], ("lm", [("provider", "openai"), ("model", "a"), ("api_key", KEY)])]
    spec = {"signature": "question -> answer", "modules": [with_key(stage)]}
    program = shared_port.done("create_program", spec)
    text = shared_port.done("dump_program", None, program["id"])
    assert KEY not in text
    assert "127.0.0.1" not in text
    details = shared_port.failed("load_program", text)
    assert (details["kind"], details["path"]) == ("input", f"opts.lms.{name}")
    loaded = shared_port.done("load_program", text, {"lms": {name: openai_model("b")}})
    again = shared_port.done("dump_program", None, loaded["id"])
    assert json.loads(again)["spec"] == json.loads(text)["spec"]
    assert shared_port.failed("load_program", text, {"lms": {name: openai_model("b"), "x": openai_model("c")}})[
        "path"
    ] == ("opts.lms.x")


@pytest.mark.parametrize(
    ("lms", "path", "message"),
    [
        ({"draft": "gpt-4o-mini"}, "opts.lms.draft.provider", "unknown provider"),
        ({"draft": {"model": "a"}}, "opts.lms.draft.provider", "expected a provider at opts.lms.draft.provider"),
        ({"draft": [MODEL, {"provider": "openai", "modle": "b"}]}, "opts.lms.draft[1].modle", '"model"?'),
        ({"draf": "openai/b"}, "opts.lms.draf", 'unknown model "draf" at opts.lms (did you mean "draft"?)'),
    ],
)
def test_a_wrong_model_of_a_loaded_program_is_named_where_it_was_given(
    shared_port: PortProcess, lms: Any, path: str, message: str
) -> None:
    """The path was that of a spec that the caller had not written, and a misspelt name was not told of."""
    spec = {"signature": "question -> answer", "modules": [{"module": "dspy.Predict", "name": "draft", "lm": MODEL}]}
    text = shared_port.done("dump_program", None, shared_port.done("create_program", spec)["id"])
    details = shared_port.failed("load_program", text, {"lms": lms})
    assert (details["kind"] in ("provider", "input"), details["path"]) == (True, path), details
    assert message in details["message"]


def openai_model(name: str) -> dict[str, Any]:
    return {"provider": "openai", "model": name, "api_key": KEY}


@pytest.mark.parametrize("place", ["stage", "sub_lm"])
def test_a_text_that_names_a_model_is_refused(shared_port: PortProcess, place: str) -> None:
    module = {"module": "dspy.RLM", "name": "x"} | {"lm" if place == "stage" else place: openai_model("b")}
    spec = {"signature": "question -> answer", "modules": [module]}
    text = {"format": "dspex.program", "format_version": 1, "spec": spec, "learned": {}, "compiled": None}
    details = shared_port.failed("load_program", json.dumps(text))
    assert details["kind"] == "store"
    assert "expected no model in a stored program" in details["message"]
    assert KEY not in json.dumps(details)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": None}, "spec.modules[0].name"),
        ({"lm": {"provider": "openai", "modle": "x"}}, "spec.modules[0].lm.modle"),
        ({"lm": 7}, "spec.modules[0].lm"),
        (
            {"of": {"module": "dspy.Predict", "lm": "embedded"}, "module": "dspy.BestOfN", "reward": "call"},
            "spec.modules[0].of.lm",
        ),
    ],
)
def test_wrong_models_of_stages_are_refused(shared_port: PortProcess, change: dict[str, Any], path: str) -> None:
    details = shared_port.failed("create_program", two_stages("embedded", **change))
    assert details["path"].startswith(path)


def test_stages_are_given_different_models_for_one_option(shared_port: PortProcess) -> None:
    """Both got the one that was given as ``sub_lm``."""
    stages = [{"module": "dspy.RLM", "name": name, "sub_lm": openai_model(name)} for name in ("one", "two")]
    program = shared_port.done("create_program", {"signature": "question -> answer", "modules": stages})
    text = shared_port.done("dump_program", None, program["id"])
    assert shared_port.failed("load_program", text)["path"] == "opts.lms.one.sub_lm"
    for models, expected in (
        ({"one.sub_lm": openai_model("a"), "two.sub_lm": openai_model("b")}, ["openai/a", "openai/b"]),
        ({"sub_lm": openai_model("c"), "two.sub_lm": openai_model("d")}, ["openai/c", "openai/d"]),
        ({"sub_lm": openai_model("e")}, ["openai/e", "openai/e"]),
    ):
        loaded = shared_port.done("load_program", text, {"lms": models})
        assert [stage["options"]["sub_lm"] for stage in loaded["stages"]] == expected
