"""The counters of a port's calls that `metrics` reports, over real ports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from erlport_bridge.counting.counters import MAX_NAMES, OTHER
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

PREDICT = ("dspy.Predict", "question -> answer")


@pytest.fixture
def port() -> Iterator[PortProcess]:
    """Yield a port whose default model is the embedded model."""
    with PortProcess(["--modules=dspy_bridge"]) as port:
        port.done("configure_lm", "embedded", {})
        yield port


def test_operation_module_program_and_model_count_what_a_call_did(port: PortProcess, model_server: ModelServer) -> None:
    spec = {
        "signature": "question -> answer",
        "modules": ["dspy.ChainOfThought"],
        "lm": openai(model_server, "gpt-4o-mini"),
    }
    program = port.done("create_program", spec)
    metas = [port.done("execute_program", None, program["id"], "x")["$meta"] for _ in range(3)]
    report = port.done("metrics")
    counted = {
        "operation": report["operations"]["execute_program"],
        "module": report["modules"]["dspy.ChainOfThought"],
        "program": report["programs"][program["id"]],
        "model": report["models"]["openai/gpt-4o-mini"],
    }
    tokens = sum(usage["total_tokens"] for meta in metas for usage in meta["usage"].values())
    cost = sum(meta["cost"] for meta in metas)
    assert tokens > 0
    assert cost > 0
    for what, tally in counted.items():
        assert (tally["calls"], tally["in_flight"], tally["errors"]) == (3, 0, {}), what
        assert (tally["total_tokens"], tally["unpriced"], tally["cache_hits"]) == (tokens, 0, 0), what
        assert tally["cost"] == pytest.approx(cost), what
        durations = tally["duration_ms"]
        assert 0 < durations["p50"] <= durations["p95"] <= durations["p99"] <= durations["max"], what
        assert durations["mean"] <= durations["max"], what
    # Each duration is a part of the one before.
    totals = [counted[what]["duration_ms"]["mean"] for what in ("operation", "module", "model")]
    assert totals == sorted(totals, reverse=True)
    assert counted["operation"]["queue_ms"]["max"] >= 0
    assert counted["module"]["queue_ms"]["max"] >= 0
    # The model has no limit of requests, so nothing waits.
    assert counted["model"]["queue_ms"] is None
    assert (report["held"], report["counted_ms"]) == ({"sessions": 1, "programs": 1}, report["uptime_ms"])


def test_small_operation_has_durations_and_no_queue(port: PortProcess) -> None:
    for _ in range(10):
        port.done("list_modules")
    tally = port.done("metrics")["operations"]["list_modules"]
    assert (tally["calls"], tally["queue_ms"]) == (10, None)
    assert 0 < tally["duration_ms"]["p50"] <= tally["duration_ms"]["max"]


def test_failed_model_is_counted_beside_the_one_that_answered(port: PortProcess, model_server: ModelServer) -> None:
    models = [openai(model_server, "status-500"), openai(model_server, "answer")]
    port.done("execute_module", *PREDICT, "x", {"lm": models})
    port.failed("execute_module", *PREDICT, "x", {"lm": openai(model_server, "status-401")})
    report = port.done("metrics")
    assert report["models"]["openai/status-500"]["errors"] == {"server": 1}
    assert report["models"]["openai/status-401"]["errors"] == {"auth": 1}
    answered = report["models"]["openai/answer"]
    assert (answered["calls"], answered["errors"], answered["unpriced"]) == (1, {}, 1)
    assert report["modules"]["dspy.Predict"]["errors"] == {"auth": 1}


def test_cached_answer_costs_nothing(port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "gpt-4o-mini", cache=True)}
    first = port.done("execute_module", *PREDICT, "x", options)["$meta"]
    port.done("execute_module", *PREDICT, "x", options)
    model = port.done("metrics")["models"]["openai/gpt-4o-mini"]
    assert (model["calls"], model["cache_hits"]) == (2, 1)
    assert model["cost"] == pytest.approx(first["cost"])
    assert model["total_tokens"] == sum(usage["total_tokens"] for usage in first["usage"].values())


def test_batch_spends_what_its_items_spend(port: PortProcess) -> None:
    results = port.done("execute_batch", *PREDICT, ["a", "b", 5])
    usages = [result["$meta"]["usage"] for status, result in results if status == "ok"]
    tokens = sum(usage["total_tokens"] for one in usages for usage in one.values())
    report = port.done("metrics")
    assert len(usages) == 2
    assert report["operations"]["execute_batch"]["total_tokens"] == tokens
    assert report["modules"]["dspy.Predict"]["total_tokens"] == tokens
    assert report["models"]["embedded/extractive"]["calls"] == 2


def test_optimizer_spends_what_its_runs_spend(port: PortProcess) -> None:
    program = port.done("create_program", "question -> answer")
    examples = [{"question": "x", "answer": "x"}] * 2
    options = {"optimizer": "dspy.BootstrapFewShot"}
    port.done("compile_program", None, program["id"], examples, options)
    report = port.done("metrics")
    spent = report["models"]["embedded/extractive"]["total_tokens"]
    assert spent > 0
    assert report["operations"]["compile_program"]["total_tokens"] == spent


def test_usage_of_a_failed_call_counts_too(port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("once", {"content": "no field at all"}, {"content": "nor here"})
    assert (
        port.failed("execute_module", *PREDICT, "x", {"lm": openai(model_server, "scripted:once")})["kind"] == "parse"
    )
    report = port.done("metrics")
    tokens = report["models"]["openai/scripted:once"]["total_tokens"]
    assert tokens > 0
    assert report["modules"]["dspy.Predict"]["total_tokens"] == tokens
    assert report["operations"]["execute_module"]["errors"] == {"parse": 1}


def test_request_that_waits_for_its_models_limit_is_in_the_queue(port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "delay-1000", max_concurrent_requests=1)}
    for _ in range(2):
        port.send_call("dspy_bridge", "execute_module", [*PREDICT, "x", options])
    model_server.wait_for_requests(1)
    running = port.send_call("dspy_bridge", "metrics", [])
    tag, call_id, (status, report) = port.receive()
    assert (tag, call_id, status) == ("r", running, "ok")
    assert report["models"]["openai/delay-1000"]["in_flight"] == 2
    assert [port.receive()[2][0] for _ in range(2)] == ["ok", "ok"]
    model = port.done("metrics")["models"]["openai/delay-1000"]
    assert model["in_flight"] == 0
    # The second request waited for nearly all of the first.
    assert model["queue_ms"]["max"] > 100
    assert model["duration_ms"]["max"] >= model["queue_ms"]["max"] + 1_000


def test_names_that_callers_make_up_are_bounded(port: PortProcess, model_server: ModelServer) -> None:
    for number in range(MAX_NAMES + 10):
        port.done("execute_module", *PREDICT, "x", {"lm": openai(model_server, f"made-up-{number}")})
    port.done("execute_module", *PREDICT, "x", {"lm": openai(model_server, "long" * 250)})
    models = port.done("metrics")["models"]
    assert len(models) == MAX_NAMES + 1
    assert models[OTHER]["calls"] == 11
    assert max(map(len, models)) == 200


def test_sandboxes_are_counted(port: PortProcess, model_server: ModelServer) -> None:
    assert port.done("metrics")["sandboxes"]["starts"] == 0
    model_server.script(
        "code",
        {"fields": {"reasoning": "-", "generated_code": "SUBMIT({'answer': 'x'})"}},
        {"fields": {"reasoning": "-", "answer": "x"}},
    )
    options = {"lm": openai(model_server, "scripted:code"), "max_iters": 1}
    port.done("execute_module", "dspy.ProgramOfThought", "question -> answer", "x", options)
    sandboxes = port.done("metrics")["sandboxes"]
    assert sandboxes["starts"] >= 1
    assert sandboxes["failed_starts"] == 0
    assert sandboxes["start_ms"]["max"] > 0


def test_report_can_be_json_too(port: PortProcess) -> None:
    port.done("execute_module", *PREDICT, "x")
    text: Any = port.done("handle_json", "metrics")
    assert json.loads(text)["modules"]["dspy.Predict"]["calls"] == 1


def test_model_requests_of_a_metric_are_counted_too(port: PortProcess, model_server: ModelServer) -> None:
    program = port.done("create_program", "question -> answer")["id"]
    judged = {"fields": {"reasoning": "r", "recall": 1.0, "precision": 1.0}}
    model_server.script("judge", {"fields": {"answer": "Lisbon"}}, judged)
    options = {"lm": openai(model_server, "scripted:judge"), "metric": "semantic_f1"}
    examples = [{"question": "Capital?", "answer": "Lisbon"}]
    evaluation = port.done("evaluate_program", None, program, examples, options)
    ((_, scored),) = evaluation["results"]
    ((_, usage),) = scored["prediction"]["$meta"]["usage"].items()
    counted = port.done("metrics")
    (of_models,) = [tally["total_tokens"] for tally in counted["models"].values()]
    assert evaluation["total_tokens"] == of_models > usage["total_tokens"]
    assert counted["operations"]["evaluate_program"]["total_tokens"] == of_models


def test_evaluation_counts_what_failed_examples_have_paid(port: PortProcess, model_server: ModelServer) -> None:
    """Only the predictions of examples with a score were counted, although the others had been paid for too."""
    program = port.done("create_program", "question -> answer")["id"]
    judged = {"fields": {"reasoning": "r", "recall": 1.0, "precision": 1.0}}
    answered = {"fields": {"answer": "Lisbon"}}
    # Of the second example the answer cannot be read, of the third the judge's.
    model_server.script("judge", answered, judged, *[{"content": "?"}] * 2, answered, *[{"content": "?"}] * 2)
    options = {"lm": openai(model_server, "scripted:judge"), "metric": "semantic_f1", "max_concurrency": 1}
    examples = [{"question": f"{number}?", "answer": "Lisbon"} for number in range(3)]
    evaluation = port.done("evaluate_program", None, program, examples, options)
    assert [result[0] for result in evaluation["results"]] == ["ok", "error", "error"]
    counted = port.done("metrics")
    (of_models,) = [tally["total_tokens"] for tally in counted["models"].values()]
    assert evaluation["total_tokens"] == of_models
    of_errors = [usage for _, (_, details) in evaluation["results"][1:] for usage in details["usage"].values()]
    assert of_models > sum(usage["total_tokens"] for usage in of_errors) > 0


def test_evaluation_says_that_examples_failed(port: PortProcess, model_server: ModelServer) -> None:
    """An evaluation in which every example failed was a score of 0 and not a word more."""
    program = port.done("create_program", "question -> answer")["id"]
    options = {"lm": openai(model_server, "error-invalid_api_key"), "metric": "equals", "no_option_at_all": 1}
    examples = [{"question": f"{number}?", "answer": "Lisbon"} for number in range(3)]
    evaluation = port.done("evaluate_program", None, program, examples, options)
    assert (evaluation["score"], evaluation["failed"]) == (0, 3)
    _, (_, details) = evaluation["results"][0]
    ignored, failed = evaluation["warnings"]
    assert "no_option_at_all" in ignored
    first_line = details["message"].partition("\n")[0]
    assert failed == f"3 of 3 examples failed; the first one, examples[0]: {first_line}"
