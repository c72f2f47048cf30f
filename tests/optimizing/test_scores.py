"""What a compilation tells of its scores, and what its metric is given."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.term import Atom, encode
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
RIGHT = {"question": "a", "answer": "answer to a"}
WRONG = {"question": "b", "answer": "something else"}
EXAMPLES = [RIGHT, WRONG, {**RIGHT, "question": "c", "answer": "answer to c"}, {**WRONG, "question": "d"}]
PARTS: dict[str, dict[str, Any]] = {
    "dspy.GEPA": {"max_metric_calls": 16, "reflection_minibatch_size": 1},
    "dspy.MIPROv2": {"num_candidates": 2, "num_trials": 4, "minibatch_size": 1, "minibatch_full_eval_steps": 3},
    "dspy.COPRO": {"breadth": 2, "depth": 1},
    "dspy.BootstrapFewShotWithRandomSearch": {"num_candidate_programs": 1, "max_bootstrapped_demos": 1},
}
OTHERWISE = [("dspy.MIPROv2", False), ("dspy.COPRO", True)]


# Without a valset MIPROv2 keeps a part of the trainset for its scores; COPRO takes none.
@pytest.mark.parametrize(
    ("optimizer", "has_valset"),
    [(name, has) for name in PARTS for has in (True, False) if (name, has) not in OTHERWISE],
)
def test_the_score_is_that_of_all_examples(
    port: PortProcess, model_server: ModelServer, optimizer: str, has_valset: bool
) -> None:
    """100 was told, the best of minibatches of one example, and 50 was what an evaluation gave."""
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    opts = {"optimizer": optimizer, "metric": "equals", "num_threads": 1, **PARTS[optimizer]}
    opts |= {"valset": EXAMPLES} if has_valset else {}
    compiled = port.done("compile_program", None, program["id"], EXAMPLES, opts)["compiled"]
    evaluated = port.done("evaluate_program", None, program["id"], EXAMPLES, {"metric": "equals"})["score"]
    assert evaluated == 50.0
    assert compiled["score"] == 50.0
    assert set(compiled["candidates"]) <= {50.0, 0.0}


def served(port: PortProcess, operation: str, *arguments: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Call an operation whose metric gives 0.0 and a feedback; the answer, and what the metric was given."""
    port.send_call("dspy_bridge", operation, list(arguments))
    came = []
    while (message := port.receive())[0] == "C":
        _, call_id, _, _, (_, given), _ = message
        came.append(given)
        port.send_message(encode((Atom("r"), call_id, {"score": 0.0, "feedback": "be short"})))
    status, answer = message[2]
    assert status == "ok", answer
    return answer, came


def test_a_metric_of_more_arguments_is_given_the_trace(port: PortProcess, model_server: ModelServer) -> None:
    stages = [
        {"name": "find", "module": "dspy.Predict", "signature": "question -> fact"},
        {"module": "dspy.ChainOfThought", "signature": "fact -> answer"},
    ]
    program = port.done("create_program", {"modules": stages, "lm": openai(model_server, "answer")})
    opts = {"optimizer": "dspy.GEPA", "metric": {"callback": "id-1", "arity": 5}, "num_threads": 1}
    opts |= {"max_metric_calls": 12, "reflection_minibatch_size": 1}
    _, came = served(port, "compile_program", None, program["id"], EXAMPLES, opts)
    assert {"inputs", "prediction", "trace", "pred_name", "pred_trace"} == set(came[0])
    asked = [given for given in came if given["pred_name"] is not None]
    names = {given["pred_name"] for given in asked}
    assert names
    for given in asked:
        assert len(given["trace"]) == 2
        (step,) = given["pred_trace"]
        assert step["predictor"] == given["pred_name"]
        assert step in given["trace"]
        assert set(step["outputs"]) <= {"fact", "reasoning", "answer"}


@pytest.mark.parametrize(("arity", "count"), [(None, 2), (2, 2), (3, 5), (5, 5)])
def test_an_evaluation_has_no_trace(
    port: PortProcess, model_server: ModelServer, arity: int | None, count: int
) -> None:
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    metric = {"callback": "id-1"} | ({} if arity is None else {"arity": arity})
    _, (given,) = served(port, "evaluate_program", None, program["id"], [RIGHT], {"metric": metric})
    assert len(given) == count
    assert given.get("trace") is None


@pytest.mark.parametrize("arity", [1, 6, "2", True])
def test_a_wrong_number_of_arguments_is_refused(port: PortProcess, arity: Any) -> None:
    program = port.done("create_program", QA)
    opts = {"metric": {"callback": "id-1", "arity": arity}}
    details = port.failed("evaluate_program", None, program["id"], [RIGHT], opts)
    assert (details["kind"], details["path"]) == ("input", "opts.metric.arity")


@pytest.mark.parametrize(
    ("metric", "example", "missing", "hint"),
    [
        ("exact_match", {"question": "?"}, "answer", "given: question"),
        ("f1", {"question": "?", "anser": "x"}, "answer", 'did you mean "answer" by "anser"?'),
        ({"check": "equals", "field": "answer", "input": "expected"}, {"question": "?"}, "expected", "given: question"),
        ("semantic_f1", {"question": "?"}, "answer", "given: question"),
    ],
)
def test_an_example_without_what_the_metric_compares_costs_nothing(
    port: PortProcess, model_server: ModelServer, metric: Any, example: dict[str, str], missing: str, hint: str
) -> None:
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    evaluated = port.done("evaluate_program", None, program["id"], [example], {"metric": metric})
    ((status, (_, details)),) = evaluated["results"]
    assert status == "error"
    assert (details["kind"], details["path"]) == ("input", f"examples[0].{missing}")
    assert details["message"].startswith(f"missing at examples[0]: {missing}, which the metric compares; ")
    assert hint in details["message"]
    assert model_server.requests == []


@pytest.mark.parametrize("field", ["anser", "reasoning"])
def test_a_metric_of_a_field_that_no_prediction_has_costs_nothing(
    port: PortProcess, model_server: ModelServer, field: str
) -> None:
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    metric = {"check": "equals", "field": field, "input": "answer"}
    details = port.failed("evaluate_program", None, program["id"], EXAMPLES, {"metric": metric})
    assert (details["kind"], details["path"]) == ("input", "opts.metric.field")
    assert details["message"].startswith(f'unknown field of the prediction "{field}" at opts.metric')
    assert ('did you mean "answer"' in details["message"]) == (field == "anser")
    assert model_server.requests == []


@pytest.mark.parametrize(
    ("optimizer", "opts", "place"),
    [
        ("dspy.BootstrapFewShot", {}, "trainset"),
        ("dspy.KNNFewShot", {"vectors": [[1.0]] * len(EXAMPLES)}, "trainset"),
        ("dspy.COPRO", {"breadth": 2}, "trainset"),
        ("dspy.GEPA", {"valset": EXAMPLES}, "trainset"),
        ("dspy.GEPA", {}, "opts.valset"),
        ("dspy.BootstrapFewShotWithRandomSearch", {}, "opts.valset"),
    ],
)
def test_a_compilation_with_an_example_that_lacks_what_is_compared_costs_nothing(
    port: PortProcess, model_server: ModelServer, optimizer: str, opts: dict[str, Any], place: str
) -> None:
    """Such runs failed one by one, after they were paid for, each with `unknown input "answer" at reward`."""
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    incomplete = [*EXAMPLES[:3], {"question": "d", "anser": "x"}]
    opts = {"optimizer": optimizer, "metric": "exact_match", **opts}
    opts |= {"valset": incomplete} if place == "opts.valset" else {}
    trainset = incomplete if place == "trainset" else EXAMPLES
    details = port.failed("compile_program", None, program["id"], trainset, opts)
    assert (details["kind"], details["path"]) == ("input", f"{place}[3].answer")
    assert details["message"].startswith(f"missing at {place}[3]: answer, which the metric compares; ")
    assert 'did you mean "answer" by "anser"?' in details["message"]
    assert model_server.requests == []


def test_an_optimizer_without_scores_takes_examples_without_what_a_metric_compares(port: PortProcess) -> None:
    program = port.done("create_program", {"signature": QA, "lm": {"provider": "embedded"}})
    opts = {"optimizer": "dspy.LabeledFewShot", "metric": "exact_match"}
    version = port.done("compile_program", None, program["id"], [{"question": "a"}], opts)
    assert version["version"] == 2
    assert version["compiled"]["warnings"] == ["dspy.LabeledFewShot takes no metric; it was ignored"]


def test_what_an_optimizer_ignores_is_a_warning_or_an_error_of_a_strict_call(port: PortProcess) -> None:
    """A metric of an optimizer without scores, and a trainset of one without examples, were ignored in silence."""
    program = port.done("create_program", {"signature": QA, "lm": {"provider": "embedded"}})["id"]
    opts = {"optimizer": "dspy.Ensemble", "metric": "exact_match"}
    compiled = port.done("compile_program", None, program, EXAMPLES, opts)["compiled"]
    assert compiled["warnings"] == [
        "dspy.Ensemble takes no metric; it was ignored",
        "dspy.Ensemble takes no examples; the trainset was ignored",
    ]
    wrong: list[tuple[dict[str, Any], Any, str]] = [(opts, [], "opts.metric")]
    wrong.append(({"optimizer": "dspy.Ensemble"}, EXAMPLES, "trainset"))
    for given, examples, path in wrong:
        details = port.failed("compile_program", None, program, examples, {**given, "strict": True, "version": 1})
        assert (details["kind"], details["path"]) == ("input", path)
        assert details["message"].endswith(", and the call is strict")
    used = {**opts, "optimizer": "dspy.BootstrapFewShot", "version": 1}
    assert port.done("compile_program", None, program, EXAMPLES, used)["compiled"]["warnings"] == []


def test_a_compilation_by_a_field_that_no_prediction_has_costs_nothing(
    port: PortProcess, model_server: ModelServer
) -> None:
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    metric = {"check": "equals", "field": "anser", "input": "answer"}
    opts = {"optimizer": "dspy.BootstrapFewShot", "metric": metric}
    details = port.failed("compile_program", None, program["id"], EXAMPLES, opts)
    assert (details["kind"], details["path"]) == ("input", "opts.metric.field")
    assert 'did you mean "answer"' in details["message"]
    assert model_server.requests == []


def test_a_metric_may_name_a_field_that_the_module_adds(port: PortProcess, model_server: ModelServer) -> None:
    spec = {"modules": ["dspy.ChainOfThought"], "signature": QA, "lm": openai(model_server, "answer")}
    program = port.done("create_program", spec)
    metric = {"check": "length", "field": "reasoning", "minimum": 1}
    evaluated = port.done("evaluate_program", None, program["id"], EXAMPLES, {"metric": metric})
    assert evaluated["score"] == 100.0


def test_a_function_may_do_with_any_example(port: PortProcess, model_server: ModelServer) -> None:
    program = port.done("create_program", {"signature": QA, "lm": openai(model_server, "answer")})
    opts = {"metric": {"callback": "id-1"}}
    evaluated, came = served(port, "evaluate_program", None, program["id"], [{"question": "?"}], opts)
    assert (evaluated["score"], len(came)) == (0.0, 1)
