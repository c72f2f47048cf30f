"""Programs that learn anew for each call, from the examples nearest to its inputs (``dspy.KNNFewShot``)."""

from __future__ import annotations

import json
from typing import Any

import dspy
import numpy as np
import pytest

from tests.deadlines import at_deadline
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
EXAMPLES = [
    {"question": "Capital of Portugal?", "answer": "Lisbon"},
    {"question": "Capital of France?", "answer": "Paris"},
    {"question": "Two and two?", "answer": "4"},
    {"question": "Two and three?", "answer": "5"},
]
# The first number is high for cities, the second one for sums.
VECTORS = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
SUM, CITY = [0.2, 0.8], [0.8, 0.3]
KNN: dict[str, Any] = {"optimizer": "dspy.KNNFewShot", "k": 2, "vectors": VECTORS}


def compiled(port: PortProcess, **options: Any) -> dict[str, Any]:
    program = port.done("create_program", {"signature": QA})["id"]
    version: dict[str, Any] = port.done("compile_program", None, program, EXAMPLES, {**KNN, **options})
    return version


def ask(port: PortProcess, version: dict[str, Any], call: dict[str, Any], question: str = "Two and one?") -> Any:
    return port.done("execute_program", None, version["id"], question, call)


def texts(server: ModelServer) -> list[str]:
    return [json.dumps(request.body["messages"]) for request in server.requests]


def test_each_call_sees_the_examples_that_are_nearest(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port)
    assert (version["version"], version["compiled"]["optimizer"]) == (2, "dspy.KNNFewShot")
    near = port.done("describe_program", None, version["id"])["neighbours"]
    assert (near["k"], near["examples"]) == (2, 4)
    assert model_server.requests == []
    call = {"lm": openai(model_server, "answer")}
    ask(port, version, {**call, "vector": SUM})
    # Two runs on the nearest examples, and the call itself.
    assert len(model_server.requests) == 3
    assert "Two and two?" in texts(model_server)[-1]
    assert "Capital" not in texts(model_server)[-1]
    ask(port, version, {**call, "vector": CITY}, "Capital of Italy?")
    assert "Capital of France?" in texts(model_server)[-1]
    assert "Two and" not in texts(model_server)[-1]
    # The old version has learned nothing.
    ask(port, version, {**call, "version": 1})
    assert len(model_server.requests) == 7
    assert "Two and two?" not in texts(model_server)[-1]


def test_prompts_are_those_of_dspy(port: PortProcess, model_server: ModelServer) -> None:
    vectors = {f"question: {example['question']}": vector for example, vector in zip(EXAMPLES, VECTORS, strict=True)}
    vectors["question: Two and one?"] = SUM
    embedder = dspy.Embedder(lambda found: np.array([vectors[text] for text in found]), caching=False)
    trainset = [dspy.Example(**example).with_inputs("question") for example in EXAMPLES]
    plain = dspy.KNNFewShot(k=2, trainset=trainset, vectorizer=embedder).compile(dspy.Predict(QA))
    lm = dspy.LM("openai/answer", api_base=f"{model_server.url}/v1", api_key="k", cache=False)
    with dspy.context(lm=lm):
        expected = plain(question="Two and one?")
    of_dspy = texts(model_server)
    prediction = ask(port, compiled(port), {"lm": openai(model_server, "answer"), "vector": SUM})
    assert prediction["answer"] == expected.answer
    assert texts(model_server)[len(of_dspy) :] == of_dspy


def test_learning_for_a_call_counts_in_its_usage(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port)
    prediction = ask(port, version, {"lm": openai(model_server, "answer"), "vector": SUM})
    (usage,) = prediction["$meta"]["usage"].values()
    counted = port.done("metrics")
    (of_model,) = counted["models"].values()
    assert (of_model["calls"], counted["operations"]["execute_program"]["calls"]) == (3, 1)
    assert usage["total_tokens"] == of_model["total_tokens"]
    assert usage["total_tokens"] == counted["operations"]["execute_program"]["total_tokens"]


def test_a_metric_chooses_the_runs_that_are_shown(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port, metric="exact_match", max_labeled_demos=0)
    model_server.script("scored", {"fields": {"answer": "?"}}, {"fields": {"answer": "5"}}, {"fields": {"answer": "3"}})
    ask(port, version, {"lm": openai(model_server, "scripted:scored"), "vector": SUM})
    assert "Two and three?" in texts(model_server)[-1]
    assert "Two and two?" not in texts(model_server)[-1]


def test_it_is_stored_and_loaded(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port, metric={"check": "contains", "field": "answer", "input": "answer"})
    text = port.done("dump_program", None, version["id"])
    again = port.done("load_program", text)
    assert port.done("dump_program", None, again["id"]) == text
    ask(port, again, {"lm": openai(model_server, "answer"), "vector": SUM})
    assert len(model_server.requests) == 3
    for path, value in (
        (("vectors",), VECTORS[1:]),
        (("vectors", 0), ["a", 1]),
        (("options", "k"), 0),
        (("options", "embedder"), {"callback": "1"}),
        (("examples", 0), {"question": 7}),
        (("metric",), {"callback": "1"}),
        (("metric",), "no_such"),
        (("more",), 1),
    ):
        stored = json.loads(text)
        place = stored["neighbours"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        details = port.failed("load_program", json.dumps(stored))
        assert (details["kind"], details["path"].startswith("neighbours")) == ("input", True), details


def test_many_calls_at_once_learn_side_by_side(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port)
    options = {"lm": openai(model_server, "delay-20"), "vector": SUM, "max_concurrency": 20}
    results = port.done("execute_program_batch", None, version["id"], ["Two and one?"] * 20, options)
    assert [status for status, _ in results] == ["ok"] * 20
    assert len(model_server.requests) == 60


def test_other_versions_learn_as_before(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port)
    call = {"lm": openai(model_server, "answer")}
    labeled = {"optimizer": "dspy.LabeledFewShot", "k": 1, **call}
    third = port.done("compile_program", None, version["id"], EXAMPLES, labeled)
    ask(port, third, call)
    assert len(model_server.requests) == 1
    ignoring = ask(port, third, {**call, "vector": SUM})
    assert ignoring["$meta"]["warnings"] == ["this version takes no vector; it was ignored"]
    # Versions that learn at each call do not vote.
    options = {"optimizer": "dspy.Ensemble", "versions": [2, 3], **call}
    assert port.failed("compile_program", None, version["id"], [], options)["path"] == "opts.versions"


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ({}, "opts.embedder"),
        ({"vector": [1.0]}, "opts.vector"),
        ({"vector": "x"}, "opts.vector"),
        ({"embedder": 7}, None),
    ],
)
def test_a_call_must_bring_the_vector_of_its_inputs(
    port: PortProcess, model_server: ModelServer, call: dict[str, Any], path: str | None
) -> None:
    version = compiled(port)
    options = {"lm": openai(model_server, "answer"), **call}
    details = port.failed("execute_program", None, version["id"], "?", options)
    assert (details["kind"], details["path"]) == ("input", path or "opts.embedder")
    assert model_server.requests == []


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"vectors": VECTORS[1:]}, "vectors"),
        ({"vectors": None}, "opts.embedder"),
        ({"k": 0}, "opts.k"),
        ({"metric": {"callback": "1"}}, "opts.metric"),
        ({"valset": EXAMPLES}, "opts.valset"),
        ({"teacher_lm": "embedded"}, "opts.teacher_lm"),
    ],
)
def test_invalid_arguments_are_named(port: PortProcess, options: dict[str, Any], path: str) -> None:
    port.done("configure_lm", "embedded", {})
    program = port.done("create_program", QA)["id"]
    details = port.failed("compile_program", None, program, EXAMPLES, {**KNN, **options})
    assert (details["kind"], details["path"]) == ("input", path)


def test_the_deadline_holds_while_it_learns(port: PortProcess, model_server: ModelServer) -> None:
    version = compiled(port)

    def attempt(timeout_ms: int) -> Any:
        options = {"lm": openai(model_server, "delay-120000"), "vector": SUM, "timeout": timeout_ms}
        return port.failed("execute_program", None, version["id"], "?", options)["kind"]

    assert at_deadline(300, attempt, lambda _: bool(model_server.requests)) == "timeout"
    (request,) = model_server.requests
    assert request.done.wait(60)
    assert request.disconnected


def test_the_deadline_holds_for_the_embedder(port: PortProcess, model_server: ModelServer) -> None:
    """The embedder is a function of Elixir, which does not answer here."""
    version = compiled(port)

    def attempt(timeout_ms: int) -> Any:
        call = {"lm": openai(model_server, "answer"), "embedder": {"callback": "1"}, "timeout": timeout_ms}
        call_id = port.send_call("dspy_bridge", "execute_program", [None, version["id"], "?", call])
        while (message := port.receive())[1] != call_id or message[0] != "r":
            assert message[0] == "C"
        return message[2]

    status, (_, details) = at_deadline(300, attempt, lambda answer: answer[1][1]["stage"] == "embedder")
    assert (status, details["kind"]) == ("error", "timeout")
    assert model_server.requests == []
