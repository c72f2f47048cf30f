"""dspy.Retrieve and dspy.KNN by embeddings, over a real port; functions of Elixir are tested from Elixir."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

PASSAGES = ["about cats", "about dogs", "about <<CUSTOM-TYPE-START-IDENTIFIER>> birds"]
VECTORS = [[1.0, 0.0], [0, 1], [0.7, 0.7]]
RETRIEVE = {"module": "dspy.Retrieve", "passages": PASSAGES, "vectors": VECTORS, "k": 2}
EXAMPLES = [
    {"question": "1 + 1", "answer": "2"},
    {"question": "2 + 2", "answer": "4"},
    {"question": "?", "answer": "!"},
]
KNN = {"module": "dspy.KNN", "trainset": EXAMPLES, "vectors": VECTORS, "k": 2}


def test_nearest_passages_come_first(shared_port: PortProcess) -> None:
    prediction = shared_port.done("execute_module", RETRIEVE, None, {"query": "pets", "vector": [0.2, 1]})
    assert prediction["passages"] == ["about dogs", "about << CUSTOM-TYPE-START-IDENTIFIER>> birds"]
    assert prediction["$meta"]["usage"] == {}
    one = shared_port.done("execute_module", RETRIEVE, None, {"query": "pets", "vector": [1, 0], "k": 1})
    assert one["passages"] == ["about cats"]


def test_nearest_examples_come_first(shared_port: PortProcess) -> None:
    inputs = {"question": "3 + 3", "vector": [1, 0.1]}
    prediction = shared_port.done("execute_module", KNN, "question -> answer", inputs)
    assert prediction["examples"] == [EXAMPLES[0], EXAMPLES[2]]


def test_many_vectors_are_searched_off_the_loop(shared_port: PortProcess) -> None:
    vectors = [[float(number == place) for place in range(300)] for number in range(1_000)]
    spec = {"module": "dspy.Retrieve", "passages": [str(number) for number in range(1_000)], "vectors": vectors, "k": 1}
    vector = [float(place == 17) for place in range(300)]
    assert shared_port.done("execute_module", spec, None, {"query": "x", "vector": vector})["passages"] == ["17"]


def test_passages_are_found_and_given_to_the_next_stage(shared_port: PortProcess, model_server: ModelServer) -> None:
    stages = [
        {**RETRIEVE, "name": "search", "inputs": {"query": "question"}},
        {
            "module": "dspy.Predict",
            "signature": "context: list[str], question -> answer",
            "inputs": {"context": "search.passages"},
        },
    ]
    program = shared_port.done("create_program", {"modules": stages, "outputs": ["answer"]})
    assert program["stages"][0]["options"] == {"k": 2, "vectors": "3 vectors", "passages": "3 texts"}
    options = {"lm": openai(model_server, "answer")}
    inputs = {"question": "Which pets?", "vector": [1, 0]}
    prediction = shared_port.done("execute_program", None, program["id"], inputs, options)
    assert list(prediction) == ["answer", "$meta"]
    assert "about cats" in str(model_server.requests[0].body)
    assert "about dogs" not in str(model_server.requests[0].body)


@pytest.mark.parametrize(
    ("spec", "signature", "inputs", "path", "message"),
    [
        (RETRIEVE, None, {"query": "x"}, "inputs.vector", "expected the query's vector"),
        (RETRIEVE, None, {"query": "x", "vector": [1]}, "inputs.vector", "expected 2 numbers"),
        (RETRIEVE, None, {"query": "x", "vector": ["1"]}, "inputs.vector[0]", "a number"),
        (RETRIEVE, None, {"query": "x", "vector": [1, 0], "k": 0}, "inputs.k", "from 1 to 1000"),
        (RETRIEVE, "a -> b", {"query": "x"}, "signature", "has its own"),
        ({"module": "dspy.Retrieve"}, None, {"query": "x"}, "spec.passages", "expected one of retriever, passages"),
        ({**RETRIEVE, "vectors": [[1], [1, 2], [3]]}, None, {}, "spec.vectors[1]", "expected 1 numbers"),
        ({**RETRIEVE, "vectors": None}, None, {"query": "x"}, "vectors", "or an embedder"),
        ({**RETRIEVE, "vectors": "x"}, None, {}, "spec.vectors", "a list of vectors"),
        ({**RETRIEVE, "vectors": VECTORS[:2]}, None, {"query": "x"}, "vectors", "expected 3 vectors"),
        ({**RETRIEVE, "passages": ["a", 7]}, None, {}, "spec.passages[1]", "expected a string"),
        ({**RETRIEVE, "retriever": "search"}, None, {}, "spec.passages", "retriever and passages"),
        ({"module": "dspy.Retrieve", "retriever": "search"}, None, {}, "spec.retriever", "a function"),
        (
            {**KNN, "trainset": [{"answer": "2"}]},
            "question -> answer",
            {"question": "x"},
            "trainset[0].question",
            "expected",
        ),
    ],
)
def test_wrong_call_is_named(
    shared_port: PortProcess, spec: Any, signature: Any, inputs: Any, path: str, message: str
) -> None:
    details = shared_port.failed("execute_module", spec, signature, inputs)
    assert (details["kind"], details["path"]) in (("input", path), ("signature", path)), details
    assert message in details["message"]


def test_module_that_calls_no_model_needs_none(port: PortProcess) -> None:
    """The port has no default model."""
    found = port.done("execute_module", RETRIEVE, None, {"query": "pets", "vector": [1, 0], "k": 1})
    assert (found["passages"], found["$meta"]["model"]) == (["about cats"], None)
    inputs = {"question": "3 + 3", "vector": [1, 0.1]}
    assert port.done("execute_module", KNN, "question -> answer", inputs)["examples"][0] == EXAMPLES[0]
    program = port.done("create_program", {"modules": [RETRIEVE]})["id"]
    assert (
        port.done("execute_program", None, program, {"query": "pets", "vector": [1, 0]})["passages"][0] == "about cats"
    )
    asking = port.done(
        "create_program", {"modules": [RETRIEVE, {"module": "dspy.Predict", "signature": "passages -> a"}]}
    )
    details = port.failed("execute_program", None, asking["id"], {"query": "pets", "vector": [1, 0]})
    assert details["kind"] == "lm_not_configured"
    assert port.done("describe_module", "dspy.KNN")["asks_model"] is False
