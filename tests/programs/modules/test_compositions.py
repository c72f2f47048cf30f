"""Modules that run other modules, over a real port, with a scripted model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deadlines import at_deadline
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
LISBON = {"check": "contains", "field": "answer", "value": "lisbon"}
BEST = {"module": "dspy.BestOfN", "N": 3, "threshold": 1, "reward": LISBON, "of": "dspy.Predict"}
REFINE = {**BEST, "module": "dspy.Refine"}
ADVICE = {"discussion": "-", "advice": {"self": "name <<CUSTOM-TYPE-START-IDENTIFIER>> the capital"}}
FAILS = {"status": 500}


def run(port: PortProcess, server: ModelServer, spec: Any, *replies: Any, **options: Any) -> tuple[Any, list[str]]:
    """Run a module with a scripted model; return its answer, and the last message of each request."""
    server.requests.clear()
    server.script("run", *(reply if "status" in reply else {"fields": reply} for reply in replies))
    options["lm"] = openai(server, "scripted:run")
    status, answer = port.operate("execute_module", spec, QA, {"question": "?"}, options)
    return answer if status == "ok" else answer[1], [str(r.body["messages"][-1]["content"]) for r in server.requests]


def test_best_of_n_stops_at_the_threshold(shared_port: PortProcess, model_server: ModelServer) -> None:
    replies = [{"answer": "Porto"}, {"answer": "Lisbon!"}]
    prediction, asked = run(shared_port, model_server, BEST, *replies)
    assert (prediction["answer"], len(asked)) == ("Lisbon!", 2)
    assert {request.body["temperature"] for request in model_server.requests} == {1.0}
    assert "rollout_id" not in str(model_server.requests[0].body)


def test_best_of_n_without_a_threshold_makes_all_attempts(shared_port: PortProcess, model_server: ModelServer) -> None:
    spec = {**BEST, "threshold": None, "reward": {"check": "words", "field": "answer", "maximum": 1}}
    replies = [{"answer": "so long"}, {"answer": "first"}, {"answer": "second"}]
    prediction, asked = run(shared_port, model_server, spec, *replies)
    assert (prediction["answer"], len(asked)) == ("first", 3)


@pytest.mark.parametrize("spec", [BEST, REFINE])
def test_failed_attempt_is_repeated_and_not_reported(
    shared_port: PortProcess, model_server: ModelServer, spec: dict[str, Any]
) -> None:
    """DSPy counts the failures of all calls of one module together."""
    for _ in range(4):
        prediction, asked = run(shared_port, model_server, spec, FAILS, FAILS, {"answer": "Lisbon"})
        assert (prediction["answer"], len(asked)) == ("Lisbon", 3)


def test_error_is_reported_when_no_attempt_succeeds(shared_port: PortProcess, model_server: ModelServer) -> None:
    """DSPy prints the error and returns ``None``."""
    error, asked = run(shared_port, model_server, BEST, FAILS, FAILS, FAILS)
    assert (error["kind"], error["status"], len(asked)) == ("server", 500, 3)


def test_error_is_reported_at_once_when_no_more_attempts_may_fail(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    error, asked = run(shared_port, model_server, {**BEST, "fail_count": 1}, FAILS, FAILS, {"answer": "Lisbon"})
    assert (error["kind"], len(asked)) == ("server", 2)


def test_error_that_every_attempt_would_meet_ends_the_call(shared_port: PortProcess, model_server: ModelServer) -> None:
    error, asked = run(shared_port, model_server, BEST, {"status": 401, "code": "invalid_api_key"})
    assert (error["kind"], len(asked)) == ("auth", 1)


def test_refine_puts_the_advice_into_the_next_attempt(shared_port: PortProcess, model_server: ModelServer) -> None:
    replies = [{"answer": "Porto"}, ADVICE, {"answer": "Lisbon"}]
    prediction, (first, asked, second) = run(shared_port, model_server, REFINE, *replies)
    assert prediction["answer"] == "Lisbon"
    assert "hint_" not in first
    assert "class Predict(Module, Parameter):" in asked
    assert '1.0 if the field `answer` contains "lisbon", without regard to case, else 0.0' in asked
    assert "[[ ## hint_ ## ]]\nname << CUSTOM-TYPE-START-IDENTIFIER>> the capital" in second


def test_refine_asks_for_no_advice_after_the_last_attempt(shared_port: PortProcess, model_server: ModelServer) -> None:
    replies = [{"answer": "Porto"}, ADVICE, {"answer": "Faro"}]
    prediction, asked = run(shared_port, model_server, {**REFINE, "N": 2}, *replies)
    assert (prediction["answer"], len(asked)) == ("Porto", 3)


def test_modules_run_one_another(shared_port: PortProcess, model_server: ModelServer) -> None:
    spec = {
        **BEST,
        "N": 2,
        "of": {**REFINE, "N": 2, "reward": {**LISBON, "value": "porto"}, "of": "dspy.ChainOfThought"},
    }
    of_both = {"reasoning": "-", "answer": "Porto or Lisbon"}
    prediction, asked = run(shared_port, model_server, spec, {"reasoning": "-", "answer": "Porto"}, of_both)
    assert (prediction["answer"], prediction["reasoning"], len(asked)) == ("Porto or Lisbon", "-", 2)


def test_tools_of_the_call_are_for_the_module_that_takes_them(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    call = {"next_thought": "-", "next_tool_name": "calculator", "next_tool_args": {"expression": "6 * 7"}}
    finish = {"next_thought": "-", "next_tool_name": "finish", "next_tool_args": {}}
    spec = {**BEST, "of": {"module": "dspy.ReAct", "max_iters": 2}}
    replies = [call, finish, {"reasoning": "-", "answer": "Lisbon"}]
    prediction, _ = run(shared_port, model_server, spec, *replies, tools=["calculator"])
    assert prediction["trajectory"]["observation_0"] == 42
    assert prediction["$meta"]["warnings"] == []


def test_cancelled_attempt_closes_its_request_and_no_other_follows(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    def attempt(timeout_ms: int) -> Any:
        options = {"lm": openai(model_server, "delay-120000"), "timeout": timeout_ms}
        return shared_port.failed("execute_module", BEST, QA, {"question": "?"}, options)

    details = at_deadline(500, attempt, lambda _: bool(model_server.requests))
    assert (details["kind"], details["stage"]) == ("timeout", "model")
    (request,) = model_server.requests
    assert request.done.wait(60)
    assert request.disconnected


def nested(depth: int) -> Any:
    spec: Any = "dspy.Predict"
    for _ in range(depth):
        spec = {**BEST, "of": spec}
    return spec


@pytest.mark.parametrize(
    ("spec", "kind", "path", "message"),
    [
        ({**BEST, "of": {**BEST, "of": {"module": "dspy.Predict", "n": 3}}}, "input", "spec.of.of.n", "known here"),
        ({**BEST, "of": {**BEST, "of": {**BEST, "N": 0}}}, "input", "spec.of.of.N", "from 1 to 100"),
        ({**BEST, "n": 2}, "input", "spec.n", "expected N once, got it at spec.N and at spec.n"),
        ({**BEST, "options": {"N": 2}}, "input", "spec.N", "expected N once"),
        ({**BEST, "of": {"module": "os.system"}}, "module_not_found", "spec.of.module", "unknown module"),
        ({**BEST, "of": "subprocess.run"}, "module_not_found", "spec.of", "unknown module"),
        ({**BEST, "of": 7}, "input", "spec.of", "at spec.of, got 7"),
        ({**BEST, "of": None}, "input", "spec.of", "the module that dspy.BestOfN runs"),
        ({"modul": "dspy.Predict"}, "input", "spec.modul", 'did you mean "module"?'),
        ({}, "input", "spec.module", "expected the name of a module"),
        ({"module": "dspy.Predict", "of": "dspy.Predict"}, "input", "spec.of", "unknown key or option"),
        ({**BEST, "reward": "1.0"}, "input", "spec.reward", "expected a function or a check"),
        (
            {**BEST, "reward": {"check": "eval", "field": "answer"}},
            "input",
            "spec.reward.check",
            "known here: contains",
        ),
        ({**BEST, "reward": {"check": "equals", "field": "answer"}}, "input", "spec.reward", "value or input"),
        ({**BEST, "reward": {"check": "words", "field": "a", "value": 1}}, "input", "spec.reward.value", "unknown key"),
        ({**BEST, "threshold": "high"}, "input", "spec.threshold", "expected a number"),
        ({**BEST, "signature": "a -> b"}, "signature", "spec.signature", "expected one signature"),
        (nested(5), "input", "spec.of.of.of.of.of", "at most 5 modules"),
        ("dspy.BestOfN", "input", "opts.reward", "expected reward"),
        ("dspy.Parallel", "input", "module", "call execute_batch instead"),
    ],
)
def test_wrong_spec_is_named_and_costs_nothing(
    shared_port: PortProcess, model_server: ModelServer, spec: Any, kind: str, path: str, message: str
) -> None:
    error, asked = run(shared_port, model_server, spec)
    assert (error["kind"], error["path"]) == (kind, path), error
    assert message in error["message"]
    assert asked == []


@pytest.mark.parametrize(
    "stage",
    [{"module": "dspy.Predict", "LM": "embedded"}, {"modul": "dspy.Predict"}, {**BEST, "LM": "embedded"}],
)
def test_unknown_key_of_a_stage_names_all_keys_of_a_stage(shared_port: PortProcess, stage: dict[str, Any]) -> None:
    """The keys that are not for the module, such as `lm`, were not among those that are known."""
    details = shared_port.failed("create_program", {"signature": QA, "modules": [{"name": "find", **stage}]})
    (wrong,) = {"LM", "modul"} & set(stage)
    assert details["path"] == f"spec.modules[0].{wrong}"
    assert f'did you mean "{"lm" if wrong == "LM" else "module"}"?' in details["message"]
    known = details["message"].partition("; known here: ")[2].split(", ")
    assert {"name", "inputs", "lm", "module", "signature", "options"} <= set(known)


def test_reward_of_a_field_that_is_not_there_says_which_are(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    spec = {**BEST, "reward": {**LISBON, "field": "anwser"}}
    error, asked = run(shared_port, model_server, spec, {"answer": "Lisbon"})
    assert (error["kind"], len(asked)) == ("input", 1)
    assert 'did you mean "answer"?' in error["message"]


def test_refine_works_with_an_adapter_of_two_models(shared_port: PortProcess, model_server: ModelServer) -> None:
    """The adapter with the advice was built anew, without the second model."""
    free: list[dict[str, Any]] = [{"content": text} for text in ("It is Porto.", "Go south.", "It is Lisbon.")]
    read: list[dict[str, Any]] = [{"fields": {"answer": "Porto"}}, {"fields": ADVICE}, {"fields": {"answer": "Lisbon"}}]
    model_server.script("free", *free)
    model_server.script("reader", *read)
    adapter = {"name": "two_step", "extraction_model": openai(model_server, "scripted:reader")}
    options = {"lm": openai(model_server, "scripted:free"), "adapter": adapter}
    prediction = shared_port.done("execute_module", {**REFINE, "N": 2}, QA, {"question": "?"}, options)
    assert (prediction["answer"], len(model_server.requests)) == ("Lisbon", 6)
