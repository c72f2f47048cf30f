"""A single predictor of a stage may have a language model of its own: ``lms`` of the stage, by the predictor's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.execution.test_streaming import PID, finish, texts

KEY = "sk-of-one-predictor-1234"
STEP = {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": "{}"}
FIELDS = {**STEP, "reasoning": "r", "answer": "a", "rationale": "r", "generated_code": "SUBMIT(1)", "code": "SUBMIT(1)"}


def scripted(server: ModelServer, name: str, *replies: Any, **settings: Any) -> dict[str, Any]:
    server.script(name, *(replies or ({"fields": FIELDS},) * 40))
    return {**openai(server, f"scripted:{name}"), **settings}


def agent(lms: Any = None, **more: Any) -> dict[str, Any]:
    stage = {"name": "search", "module": "dspy.ReAct", "signature": "question -> answer", "lms": lms}
    return {"modules": [{**stage, **more}]}


def asked(server: ModelServer) -> list[str]:
    return [request.model.removeprefix("scripted:") for request in server.requests]


def test_a_predictor_asks_its_own_model(shared_port: PortProcess, model_server: ModelServer) -> None:
    spec = agent({"react": scripted(model_server, "cheap")}, lm=scripted(model_server, "strong"))
    program = shared_port.done("create_program", spec)
    (stage,) = program["stages"]
    assert (stage["lm"], stage["lms"]) == ("openai/scripted:strong", {"react": "openai/scripted:cheap"})
    prediction = shared_port.done("execute_program", None, program["id"], {"question": "q"})
    assert asked(model_server) == ["cheap", "strong"]
    assert prediction["$meta"]["model"] == "openai/scripted:strong"
    assert set(prediction["$meta"]["usage"]) == {"openai/scripted:cheap", "openai/scripted:strong"}


def test_the_model_of_a_prediction_is_the_one_that_answered_last(port: PortProcess, model_server: ModelServer) -> None:
    """The model of the port is not asked, as each stage or predictor has another one."""
    port.done("configure_lm", "embedded", {})
    down = {**openai(model_server, "status-503"), "fallbacks": [scripted(model_server, "spare")], "num_retries": 0}
    own = {"react": scripted(model_server, "one"), "extract.predict": scripted(model_server, "two")}
    for spec, model in [
        (agent(lm=scripted(model_server, "stage")), "stage"),
        (agent(own), "two"),
        (agent(lm=down), "spare"),
        (agent({**own, "extract.predict": down}), "spare"),
    ]:
        program = port.done("create_program", spec)
        meta = port.done("execute_program", None, program["id"], {"question": "q"})["$meta"]
        assert meta["model"] == f"openai/scripted:{model}"


def test_programs_that_differ_only_in_the_model_of_a_predictor(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    """Their stages share one module."""
    other = scripted(model_server, "other")
    specs = [agent({"react": scripted(model_server, "one")}), agent({"extract.predict": scripted(model_server, "two")})]
    ids = [shared_port.done("create_program", spec)["id"] for spec in [*specs, agent()]]
    for id_ in ids:
        shared_port.done("execute_program", None, id_, {"question": "q"}, {"lm": other})
    assert asked(model_server) == ["one", "other", "other", "two", "other", "other"]


def test_settings_of_the_call_go_first_and_those_of_the_program_last(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    spec = {
        **agent({"react": scripted(model_server, "own", temperature=0.5)}, lm=scripted(model_server, "stage")),
        "config": {"temperature": 0.1, "top_p": 0.9},
    }
    program = shared_port.done("create_program", spec)
    for opts in ({}, {"temperature": 0.7}):
        shared_port.done("execute_program", None, program["id"], {"question": "q"}, opts)
    found = [(request.body["temperature"], request.body["top_p"]) for request in model_server.requests]
    assert found == [(0.5, 0.9), (0.1, 0.9), (0.7, 0.9), (0.7, 0.9)]


@pytest.mark.parametrize(
    ("module", "names", "more"),
    [
        ("dspy.ChainOfThought", ["predict"], {}),
        ("dspy.ReAct", ["react", "extract.predict"], {}),
        ("dspy.MultiChainComparison", ["attempt.predict", "compare.predict"], {"M": 2}),
        ("dspy.BestOfN", ["module.predict"], {"of": "dspy.ChainOfThought", "N": 2}),
    ],
)
def test_predictors_that_all_have_a_model_need_no_other(
    port: PortProcess, model_server: ModelServer, module: str, names: list[str], more: dict[str, Any]
) -> None:
    if "of" in more:
        more = {**more, "reward": {"check": "equals", "field": "answer", "value": "never"}}
    lms = {name: scripted(model_server, name) for name in names}
    program = port.done("create_program", agent(lms, module=module, **more))
    assert port.done("execute_program", None, program["id"], {"question": "q"})["answer"] == "a"
    assert set(asked(model_server)) == set(names)
    if len(names) > 1:
        lms.pop(names[0])
        program = port.done("create_program", agent(lms, module=module, **more))
        details = port.failed("execute_program", None, program["id"], {"question": "q"})
        assert details["kind"] == "lm_not_configured"


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("dspy.Refine", {"of": "dspy.ChainOfThought", "reward": {"check": "equals", "field": "answer", "value": "b"}}),
        ("dspy.RLM", {}),
    ],
)
def test_a_module_that_asks_beside_its_predictors_needs_another_model(
    port: PortProcess, module: str, more: dict[str, Any]
) -> None:
    """Advice of ``Refine`` and the questions of code are of the stage's model."""
    names = ["module.predict"] if more else ["module.generate_action", "module.extract"]
    program = port.done("create_program", agent(dict.fromkeys(names, "embedded"), module=module, **more))
    details = port.failed("execute_program", None, program["id"], {"question": "q"})
    assert details["kind"] == "lm_not_configured"


def test_attempts_of_best_of_n_differ(shared_port: PortProcess, model_server: ModelServer) -> None:
    """Each attempt has a rollout of its own, so that none is answered from the cache, and the temperature of DSPy."""
    reward = {"check": "equals", "field": "answer", "value": "third"}
    of = {"module": "dspy.ReAct", "signature": "question -> answer"}
    answers = [{"fields": {**FIELDS, "answer": text}} for text in ("first", "second", "third")]
    lms = {
        "module.react": scripted(model_server, "steps", temperature=0.2, cache=True),
        "module.extract.predict": scripted(model_server, "last", *answers, cache=True),
    }
    spec = agent(lms, module="dspy.BestOfN", of=of, N=5, threshold=1.0, reward=reward)
    spec["modules"][0].pop("signature")
    program = shared_port.done("create_program", spec)
    for _ in range(2):  # the second time from the cache
        prediction = shared_port.done("execute_program", None, program["id"], {"question": "q"}, {"lm": "embedded"})
        assert prediction["answer"] == "third"
    assert asked(model_server) == ["steps", "last"] * 3
    assert {request.body["temperature"] for request in model_server.requests} == {1.0}


def test_a_comparison_keeps_the_temperature_of_each_model(shared_port: PortProcess, model_server: ModelServer) -> None:
    lms = {
        "attempt.predict": scripted(model_server, "attempts", temperature=0.9),
        "compare.predict": scripted(model_server, "judge", temperature=0.3),
    }
    program = shared_port.done("create_program", agent(lms, module="dspy.MultiChainComparison", M=2))
    opts = {"lm": {**scripted(model_server, "other"), "temperature": 0.1}}
    shared_port.done("execute_program", None, program["id"], {"question": "q"}, opts)
    assert [request.body["temperature"] for request in model_server.requests] == [0.9, 0.9, 0.3]


@pytest.mark.parametrize("own", ["lm", "lms"])
def test_rounds_of_an_optimizer_differ(shared_port: PortProcess, model_server: ModelServer, own: str) -> None:
    """The second round of bootstrapping got the answers of the first from the cache of a stage's own model."""
    model = scripted(
        model_server,
        f"rounds of {own}",
        *({"fields": {**FIELDS, "answer": text}} for text in ("no", "yes")),
        cache=True,
    )
    stage = {own: model if own == "lm" else {"predict": model}}
    spec = {
        "modules": [
            {"name": "reply", "module": "dspy.ChainOfThought", "signature": "question -> answer", **stage},
        ]
    }
    program = shared_port.done("create_program", {**spec, "lm": "embedded"})
    optimizer = {
        "optimizer": "dspy.BootstrapFewShot",
        "max_rounds": 2,
        "metric": {"check": "equals", "field": "answer", "value": "yes"},
    }
    compiled = shared_port.done("compile_program", None, program["id"], [{"question": "q"}], optimizer)
    assert compiled["compiled"]["demos"] == {"reply.predict": 1}
    assert asked(model_server) == [f"rounds of {own}"] * 2


def test_a_predictor_keeps_its_model_while_it_is_compiled_and_evaluated(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    spec = {**agent({"react": scripted(model_server, "steps")}), "lm": scripted(model_server, "rest")}
    program = shared_port.done("create_program", spec)
    examples = [{"question": "q", "answer": "a"}]
    metric = {"check": "equals", "field": "answer", "input": "answer"}
    optimizer = {"optimizer": "dspy.BootstrapFewShot", "metric": metric}
    compiled = shared_port.done("compile_program", None, program["id"], examples, optimizer)
    assert compiled["compiled"]["demos"] == {"search.react": 1, "search.extract.predict": 1}
    shared_port.done("evaluate_program", None, program["id"], examples, {"metric": metric})
    assert asked(model_server) == ["steps", "rest"] * (len(model_server.requests) // 2)
    assert len(model_server.requests) >= 4


def test_members_of_an_ensemble_keep_the_models(shared_port: PortProcess, model_server: ModelServer) -> None:
    spec = {**agent({"react": scripted(model_server, "steps")}), "lm": scripted(model_server, "rest")}
    program = shared_port.done("create_program", spec)
    examples = [{"question": "q", "answer": "a"}]
    shared_port.done("compile_program", None, program["id"], examples, {"optimizer": "dspy.LabeledFewShot"})
    compiled = shared_port.done("compile_program", None, program["id"], [], {"optimizer": "dspy.Ensemble"})
    shared_port.done("execute_program", None, program["id"], {"question": "q"}, {"version": compiled["version"]})
    assert sorted(asked(model_server)) == ["rest", "rest", "steps", "steps"]


def test_a_stream_has_the_text_of_a_predictor_with_its_own_model(port: PortProcess, model_server: ModelServer) -> None:
    long = "an answer of some words"
    lms = {"extract.predict": scripted(model_server, "last", {"fields": {**FIELDS, "answer": long}})}
    program = port.done("create_program", {**agent(lms), "lm": scripted(model_server, "steps")})
    call_id = port.send_call("dspy_bridge", "stream_program", [PID, "s", None, program["id"], {"question": "q"}])
    events, (status, prediction) = finish(port, call_id)
    assert (status, prediction["answer"]) == ("ok", long)
    pieces = texts(events)["answer"]
    assert ("".join(pieces), len(pieces) > 1) == (long, True)
    assert asked(model_server) == ["steps", "last"]


def test_native_calls_of_tools_go_to_a_predictors_model(shared_port: PortProcess, model_server: ModelServer) -> None:
    calls = [{"name": "submit", "args": {"answer": "a"}}]
    lms = {"react": scripted(model_server, "native", {"calls": calls})}
    program = shared_port.done("create_program", agent(lms, module="dspy.ReActV2"))
    opts = {"lm": "embedded", "adapter": {"name": "chat", "native_function_calling": True}}
    assert shared_port.done("execute_program", None, program["id"], {"question": "q"}, opts)["answer"] == "a"
    assert model_server.requests[0].body["tools"][0]["function"]["name"] == "submit"


def test_a_budget_counts_a_predictors_model(shared_port: PortProcess, model_server: ModelServer) -> None:
    spec = agent({"react": scripted(model_server, "steps")}, lm=scripted(model_server, "rest"))
    program = shared_port.done("create_program", {**spec, "max_tokens_total": 1})
    details = shared_port.failed("execute_program", None, program["id"], {"question": "q"})
    assert (details["kind"], asked(model_server)) == ("budget", ["steps"])


@pytest.mark.parametrize("is_keywords", [False, True])
def test_a_stored_program_has_no_model_of_a_predictor_and_is_given_it_anew(
    shared_port: PortProcess, is_keywords: bool
) -> None:
    model: Any = {"provider": "openai", "model": "a", "api_key": KEY, "api_base": "http://127.0.0.1:9/v1"}
    lms: Any = {"react": model, "extract.predict": None}
    if is_keywords:
        model = list(model.items())
        lms = [("react", model)]
    program = shared_port.done("create_program", agent(lms))
    text = shared_port.done("dump_program", None, program["id"])
    assert KEY not in text
    assert "127.0.0.1" not in text
    assert KEY not in json.dumps(shared_port.done("describe_program", None, program["id"]))
    for wrong in ({}, {"lms": {"search": model}}, {"lms": {"search.extract.predict": model}}):
        details = shared_port.failed("load_program", text, wrong)
        assert details["kind"] == "input"
        assert "search.react" in details["message"]
    again = {"provider": "openai", "model": "b", "api_key": KEY}
    loaded = shared_port.done("load_program", text, {"lms": {"search.react": again}})
    assert loaded["stages"][0]["lms"] == {"react": "openai/b"}
    assert json.loads(shared_port.done("dump_program", None, loaded["id"]))["spec"] == json.loads(text)["spec"]


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"name": None, "lms": {"react": "embedded"}}, "spec.modules[0].name", "expected a name for a stage"),
        (
            {"lms": {"reactt": "embedded"}},
            "spec.modules[0].lms.reactt",
            'unknown predictor of dspy.ReAct "reactt" at spec.modules[0].lms (did you mean "react"?)',
        ),
        ({"lms": {"search.react": "embedded"}}, "spec.modules[0].lms.search.react", "extract.predict"),
        ({"lms": {"react": {"provider": "openai", "modle": "x"}}}, "spec.modules[0].lms.react.modle", '"model"?'),
        ({"lms": {"react": 7}}, "spec.modules[0].lms.react", "expected"),
        ({"lms": 7}, "spec.modules[0].lms", "expected"),
        ({"lms": {"predict": "embedded"}, "module": "dspy.Predict"}, "spec.modules[0].lms", "its model as lm"),
        (
            {"module": "dspy.BestOfN", "reward": "call", "of": {"module": "dspy.ReAct", "lms": {}}},
            "spec.modules[0].of.lms",
            "unknown key",
        ),
    ],
)
def test_wrong_models_of_predictors_are_refused(
    shared_port: PortProcess, change: dict[str, Any], path: str, message: str
) -> None:
    details = shared_port.failed("create_program", agent(**change))
    assert (details["kind"] in ("input", "provider"), details["path"]) == (True, path), details
    assert message in details["message"]
