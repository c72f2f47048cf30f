"""The spans of calls for what is neither a module nor a request to a model: the store, rewards and metrics."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from tests.port_process import PortProcess

QA = "question -> answer"
TRACED = {"trace": "metadata", "lm": "embedded"}
CHECK = {"check": "length", "field": "answer", "minimum": 1}


def traced(port: PortProcess, operation: str, *arguments: Any) -> list[dict[str, Any]]:
    """Call an operation that must succeed, and return its spans, those of items too."""
    status, result, trace = port.operate(operation, *arguments)
    assert status == "ok", result
    items = result.get("results", ()) if isinstance(result, dict) else ()
    spans: list[dict[str, Any]] = trace["spans"]
    return spans + [span for item in items for span in item[2]["spans"]]


def test_work_of_the_store_is_a_span_below_the_call(tmp_path: Path) -> None:
    with PortProcess(environment={"DSPEX_STORE": f"sqlite:///{tmp_path}/dspex.db"}) as port:
        program = port.done("create_program", {"signature": QA, "history": True}, {"session_id": "s"})
        told = {**TRACED, "conversation": "user"}
        spans = traced(port, "execute_program", "s", program["id"], {"question": "why"}, told)
    found = [span for span in spans if span["kind"] == "store"]
    assert {span["name"] for span in found} == {"read", "change"}
    assert {span["parent"] for span in found} == {spans[0]["id"]}
    assert all(span["duration_us"] > 0 for span in found)


def test_store_that_fails_ends_its_span_with_the_error(tmp_path: Path) -> None:
    path = tmp_path / "dspex.db"
    with PortProcess(environment={"DSPEX_STORE": f"sqlite:///{path}"}) as port:
        program = port.done("create_program", {"signature": QA}, {"session_id": "s"})
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("ALTER TABLE dspex_programs RENAME TO others")
        status, _reason, trace = port.operate("execute_program", "s", program["id"], {"question": "why"}, TRACED)
    assert status == "error"
    (failed,) = [span for span in trace["spans"] if span["kind"] == "store"]
    assert (failed["status"], failed["error"]["kind"]) == ("error", "store")


def test_reward_is_a_span_beside_the_module_that_it_rates(port: PortProcess) -> None:
    module = {"module": "dspy.BestOfN", "of": "dspy.Predict", "N": 2, "reward": CHECK, "threshold": 2.0}
    spans = traced(port, "execute_module", module, QA, {"question": "why"}, TRACED)
    rewards = [span for span in spans if span["kind"] == "reward"]
    assert [(span["name"], span["attributes"]["score"]) for span in rewards] == [("length", 1.0)] * 2
    (best,) = [span for span in spans if span["name"] == "dspy.BestOfN"]
    assert {span["parent"] for span in rewards} == {best["id"]}


def test_metric_is_a_span_of_the_example_that_it_rates(port: PortProcess) -> None:
    program = port.done("create_program", {"signature": QA}, {})
    examples = [{"question": "a", "answer": "x"}, {"question": "b", "answer": ["x"]}]
    opts = {**TRACED, "metric": "contains"}
    spans = traced(port, "evaluate_program", program["session_id"], program["id"], examples, opts)
    metrics = {span["id"]: span for span in spans if span["kind"] == "metric"}.values()
    items = {span["id"] for span in spans if span["kind"] == "item"}
    assert len(metrics) == len(items) == 2
    assert {span["parent"] for span in metrics} == items
    # Text may not contain a list.
    assert sorted(span["status"] for span in metrics) == ["error", "ok"]


def test_metrics_of_an_optimizer_are_spans_of_its_run(port: PortProcess) -> None:
    program = port.done("create_program", {"signature": QA}, {})
    opts = {**TRACED, "optimizer": "dspy.BootstrapFewShot", "metric": CHECK}
    spans = traced(port, "compile_program", program["session_id"], program["id"], [{"question": "a"}], opts)
    (run,) = [span for span in spans if span["kind"] == "optimizer"]
    (metric,) = [span for span in spans if span["kind"] == "metric"]
    assert (metric["parent"], metric["attributes"]["score"]) == (run["id"], 1.0)
