"""Budgets of calls, programs and sessions: what they may spend on models, and what errors say was spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
HI = {"question": "hi"}
LIMITS: list[dict[str, Any]] = [{"max_cost": 1e-9}, {"max_tokens_total": 1}]
EXAMPLES = [{"question": f"q{number}", "answer": "never"} for number in range(6)]
METRIC = {"check": "equals", "field": "answer", "input": "answer"}


@pytest.fixture
def priced(model_server: ModelServer) -> dict[str, Any]:
    """Return a model whose price DSPy knows."""
    return openai(model_server, "gpt-4o-mini")


@pytest.fixture(scope="module")
def budgeted(ports: Any) -> Iterator[PortProcess]:
    """Yield a port for calls that close their sessions."""
    with ports.start() as port:
        yield port


def spent_of(details: dict[str, Any]) -> tuple[int, float]:
    """Return the tokens and the cost that an error says were paid."""
    return sum(usage["total_tokens"] for usage in details["usage"].values()), details["cost"]


# Modules that ask more than once: in turn, again after an error, and with errors of attempts swallowed.
MODULES: list[Any] = [
    {
        "module": "dspy.BestOfN",
        "N": 3,
        "of": "dspy.Predict",
        "reward": {"check": "length", "field": "answer", "maximum": 1},
    },
    {
        "module": "dspy.Refine",
        "N": 3,
        "of": "dspy.Predict",
        "reward": {"check": "length", "field": "answer", "maximum": 1},
    },
    {"module": "dspy.ReAct", "tools": []},
]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module["module"])
def test_nothing_is_asked_after_the_limit(
    budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any], module: Any, limit: dict[str, Any]
) -> None:
    details = budgeted.failed("execute_module", module, QA, HI, {"lm": priced, **limit})
    assert (details["kind"], details["type"], details["retryable"]) == ("budget", "BudgetError", False)
    (option,) = limit
    assert details["option"] == option
    assert option in details["message"]
    assert details["budget"]["of"] == "this call"
    assert spent_of(details) == (details["budget"]["total_tokens"], details["budget"]["cost"])
    assert details["cost"] > 0
    assert len(model_server.requests) == 1


@pytest.mark.parametrize("limit", [{"max_cost": 0}, {"max_tokens_total": 0}], ids=str)
def test_budget_of_nothing_asks_no_model(
    budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any], limit: dict[str, Any]
) -> None:
    details = budgeted.failed("execute_module", "dspy.Predict", QA, HI, {"lm": priced, **limit})
    assert details["kind"] == "budget"
    assert "usage" not in details
    assert not model_server.requests


def test_call_within_its_budget_is_answered(budgeted: PortProcess, priced: dict[str, Any]) -> None:
    meta = budgeted.done("execute_module", "dspy.Predict", QA, HI, {"lm": priced, "max_cost": 1e-9})["$meta"]
    assert meta["cost"] > 1e-9


def test_cached_answers_are_free(budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any]) -> None:
    lm = {**priced, "cache": True}
    budgeted.done("execute_module", "dspy.Predict", QA, HI, {"lm": lm})
    meta = budgeted.done("execute_module", "dspy.Predict", QA, HI, {"lm": lm, "max_cost": 0, "max_tokens_total": 0})
    assert meta["$meta"]["cache_hits"] == 1
    details = budgeted.failed("execute_module", "dspy.Predict", QA, {"question": "new"}, {"lm": lm, "max_cost": 0})
    assert details["kind"] == "budget"
    assert len(model_server.requests) == 1


def test_fallback_model_is_not_asked_for_what_a_budget_refuses(
    budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any]
) -> None:
    details = budgeted.failed("execute_module", "dspy.Predict", QA, HI, {"lm": [priced, "embedded"], "max_cost": 0})
    assert details["kind"] == "budget"
    assert not model_server.requests


def test_answer_without_a_price_ends_a_budget_of_cost(budgeted: PortProcess, model_server: ModelServer) -> None:
    """A budget that nobody can keep must not seem to be kept."""
    module = MODULES[0]
    details = budgeted.failed("execute_module", module, QA, HI, {"lm": openai(model_server, "unknown"), "max_cost": 9})
    assert (details["kind"], details["cost"]) == ("budget", None)
    assert "no known price" in details["message"]
    assert len(model_server.requests) == 1


def test_models_of_this_process_cost_what_they_say(budgeted: PortProcess) -> None:
    opts = {"lm": "embedded", "max_cost": 1e-9}
    assert budgeted.done("execute_module", MODULES[0], QA, HI, opts)["$meta"]["usage"] is not None


def test_batch_has_one_budget(budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any]) -> None:
    inputs = [{"question": str(number)} for number in range(8)]
    opts = {"lm": priced, "max_tokens_total": 1, "max_concurrency": 1}
    results = budgeted.done("execute_batch", "dspy.Predict", QA, inputs, opts)
    assert [status for status, _ in results] == ["ok"] + ["error"] * 7
    assert {details["kind"] for _, (_, details) in results[1:]} == {"budget"}
    assert len(model_server.requests) == 1


def test_requests_in_flight_are_the_most_that_go_over(budgeted: PortProcess, model_server: ModelServer) -> None:
    inputs = [{"question": str(number)} for number in range(12)]
    opts = {"lm": openai(model_server, "delay-300"), "max_tokens_total": 1, "max_concurrency": 4}
    results = budgeted.done("execute_batch", "dspy.Predict", QA, inputs, opts)
    assert len(model_server.requests) == sum(status == "ok" for status, _ in results) <= 4


def test_session_and_program_pay_for_their_calls(
    budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any]
) -> None:
    session = budgeted.done("open_session", "user-1", {"max_tokens_total": 1})
    assert session["budget"] == {"max_cost": None, "max_tokens_total": 1, "cost": 0.0, "total_tokens": 0}
    first = budgeted.done("execute_module", "dspy.Predict", QA, HI, {"lm": priced, "session_id": "user-1"})["$meta"]
    (listed,) = [one for one in budgeted.done("list_sessions") if one["id"] == "user-1"]
    tokens = sum(used["total_tokens"] for used in first["usage"].values())
    assert (listed["budget"]["cost"], listed["budget"]["total_tokens"]) == (first["cost"], tokens)
    details = budgeted.failed("execute_module", "dspy.Predict", QA, HI, {"lm": priced, "session_id": "user-1"})
    assert details["budget"]["of"] == 'session "user-1"'
    # More is allowed, and what was spent is not forgotten.
    budgeted.done("open_session", "user-1", {"max_tokens_total": tokens + 1})
    spec = {"signature": QA, "lm": priced, "max_cost": 1e-9}
    program = budgeted.done("create_program", spec, {"session_id": "user-1"})
    budgeted.done("execute_program", None, program["id"], HI)
    assert budgeted.failed("execute_program", None, program["id"], HI)["budget"]["of"] == f'program "{program["id"]}"'
    described = budgeted.done("describe_program", None, program["id"])["budget"]
    assert described["cost"] == budgeted.done("session_info", "user-1")["budget"]["cost"] - first["cost"]
    # The session is spent too.
    assert budgeted.failed("execute_module", "dspy.Predict", QA, HI, {"session_id": "user-1", "lm": priced})[
        "kind"
    ] == ("budget")
    assert len(model_server.requests) == 2
    budgeted.done("close_session", "user-1")


def test_program_called_through_the_session_of_a_user_is_paid_by_both(
    budgeted: PortProcess, priced: dict[str, Any]
) -> None:
    program = budgeted.done(
        "create_program", {"signature": QA, "lm": priced, "history": True}, {"session_id": "shared"}
    )
    budgeted.done("open_session", "bob", {"max_tokens_total": 1})
    budgeted.done("execute_program", None, program["id"], HI, {"session_id": "bob"})
    assert budgeted.failed("execute_program", None, program["id"], HI, {"session_id": "bob"})["budget"]["of"] == (
        'session "bob"'
    )
    budgeted.done("execute_program", None, program["id"], HI, {"conversation": "other"})
    for session_id in ("shared", "bob"):
        budgeted.done("close_session", session_id)


def test_stored_program_keeps_its_limits_and_versions_share_what_is_spent(
    budgeted: PortProcess, priced: dict[str, Any]
) -> None:
    spec = {"signature": QA, "max_tokens_total": 1}
    program = budgeted.done("create_program", spec, {"session_id": "dumped"})
    text = budgeted.done("dump_program", None, program["id"], {})
    loaded = budgeted.done("load_program", text, {"session_id": "dumped"})
    assert loaded["budget"]["max_tokens_total"] == 1
    budgeted.done("execute_program", None, program["id"], HI, {"lm": priced})
    compiled = {"optimizer": "dspy.LabeledFewShot", "lm": priced}
    version = budgeted.done("compile_program", None, program["id"], EXAMPLES, compiled)
    assert version["budget"]["total_tokens"] > 1
    assert budgeted.failed("execute_program", None, program["id"], HI, {"lm": priced})["kind"] == "budget"
    budgeted.done("close_session", "dumped")


@pytest.mark.parametrize("optimizer", ["dspy.BootstrapFewShot", "dspy.COPRO", "dspy.GEPA", "dspy.InferRules"])
def test_optimizer_ends_at_its_budget(
    budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any], optimizer: str
) -> None:
    """Optimizers swallow the errors of examples and go on."""
    program = budgeted.done("create_program", {"signature": QA}, {"session_id": "compiled"})
    small: dict[str, Any] = {"dspy.COPRO": {"breadth": 2, "depth": 2}, "dspy.GEPA": {"max_metric_calls": 20}}
    num_threads = 2
    opts = {"optimizer": optimizer, "metric": METRIC, "lm": priced, "max_tokens_total": 100, "num_threads": num_threads}
    details = budgeted.failed("compile_program", None, program["id"], EXAMPLES, {**opts, **small.get(optimizer, {})})
    assert details["kind"] == "budget"
    # What was in flight may have been answered after the request that was refused.
    tokens, cost = spent_of(details)
    assert tokens >= details["budget"]["total_tokens"]
    assert cost >= details["budget"]["cost"] * 0.999
    assert details["budget"]["total_tokens"] >= 100
    asked = len(model_server.requests)
    budgeted.done("ping", None)
    # The other thread may have sent one before that, which is only now received; after it nothing is asked.
    time.sleep(0.5)
    received = len(model_server.requests)
    assert received < asked + num_threads
    time.sleep(0.5)
    assert len(model_server.requests) == received
    budgeted.done("close_session", "compiled")


def test_evaluation_pays_for_predictions_and_for_its_metric(
    budgeted: PortProcess, model_server: ModelServer, priced: dict[str, Any]
) -> None:
    program = budgeted.done("create_program", {"signature": QA, "lm": priced}, {"session_id": "evaluated"})
    opts = {"metric": "semantic_f1", "max_tokens_total": 1, "max_concurrency": 1}
    report = budgeted.done("evaluate_program", None, program["id"], EXAMPLES, opts)
    assert {details["kind"] for _, (_, details) in report["results"]} == {"budget"}
    # The first example's prediction was paid for, and its metric was refused.
    (_, (_, first)), (_, (_, second)) = report["results"][:2]
    assert first["usage"]["openai/gpt-4o-mini"]["total_tokens"] > 0
    assert "usage" not in second
    assert len(model_server.requests) == 1
    budgeted.done("close_session", "evaluated")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"max_cost": -1}, "expected a number from 0 to 1000000 at opts.max_cost, got -1"),
        ({"max_cost": "1"}, 'expected a number from 0 to 1000000 at opts.max_cost, got "1"'),
        ({"max_tokens_total": 1.5}, "expected a number of tokens from 0 to 9007199254740992 at opts.max_tokens_total"),
        ({"max_tokens": 5, "max_token_total": 1}, 'did you mean "max_tokens_total"?'),
        ({"budgets": 7}, "expected a list of budgets at opts.budgets, got 7"),
        ({"budgets": [{"of": "x"}]}, "opts.budgets[0].callback"),
    ],
    ids=str,
)
def test_wrong_limit_is_an_error_that_names_its_place(
    budgeted: PortProcess, opts: dict[str, Any], message: str
) -> None:
    details = budgeted.failed("execute_module", "dspy.Predict", QA, HI, {"lm": "embedded", **opts})
    assert details["kind"] == "input"
    assert message in details["message"]


def test_a_session_that_is_opened_again_keeps_its_limits(budgeted: PortProcess) -> None:
    """They were gone, unless they were given again."""
    limits: dict[str, Any] = {"max_cost": 0.5, "max_tokens_total": 10}
    budgeted.done("open_session", "again", limits)
    for given, expected in [
        ({}, limits),
        (None, limits),
        ({"max_cost": 1.5}, {**limits, "max_cost": 1.5}),
        ({"max_cost": None}, {**limits, "max_cost": None}),
        ({"max_tokens_total": None}, {"max_cost": None, "max_tokens_total": None}),
    ]:
        budget = budgeted.done("open_session", "again", given)["budget"]
        assert budget == {**expected, "cost": 0.0, "total_tokens": 0}
    budgeted.done("close_session", "again")
    assert budgeted.done("open_session", "again")["budget"]["max_cost"] is None
    budgeted.done("close_session", "again")


def test_wrong_limit_of_a_program_and_a_session_names_its_place(budgeted: PortProcess) -> None:
    assert budgeted.failed("create_program", {"signature": QA, "max_cost": -1})["path"] == "spec.max_cost"
    assert budgeted.failed("open_session", "s", {"max_cost": -1})["path"] == "opts.max_cost"
    assert budgeted.failed("open_session", "s", {"max_costs": 1})["path"] == "opts.max_costs"
