"""Tools, rewards, retrievers and embedders of a stored program: each call brings them again, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erlport_bridge.term import Atom, encode
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
STOCK = {
    "name": "stock",
    "description": "How many pieces of an article are in stock",
    "parameters": {"properties": {"article": {"type": "string"}}, "required": ["article"]},
    "callback": "id-1",
}
REACT = {"signature": QA, "modules": ["dspy.ReAct"]}
NAMING = {"signature": QA, "modules": [{"module": "dspy.ReAct", "tools": ["calculator", {"name": "stock"}]}]}
REWARDED = {"signature": QA, "modules": [{"module": "dspy.BestOfN", "N": 1, "of": "dspy.Predict", "reward": "call"}]}
RETRIEVING = {"modules": [{"module": "dspy.Retrieve", "k": 1, "retriever": "call"}]}
EMBEDDING = {"modules": [{"module": "dspy.Retrieve", "k": 1, "passages": ["one", "two"], "embedder": "call"}]}


def model(server: ModelServer, name: str) -> dict[str, Any]:
    """Give a model that calls ``stock`` once, and then answers."""
    for tool, arguments in (("stock", {"article": "bolt"}), ("finish", {})):
        fields = {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
        server.script(name, {"fields": fields})
    server.script(name, {"fields": {"reasoning": "r", "answer": "17"}})
    return openai(server, f"scripted:{name}")


def answered(port: PortProcess, operation: str, *arguments: Any, result: Any) -> tuple[Any, list[Any]]:
    """Call an operation as Elixir does, whose functions all give ``result``; the answer, and what they were given."""
    port.send_call("dspy_bridge", operation, list(arguments))
    came = []
    while (message := port.receive())[0] == "C":
        _, call_id, _, _, (callback_id, given), _ = message
        came.append((callback_id, given))
        given_back = [[1.0, 0.0]] * len(given["texts"]) if "texts" in given else result
        port.send_message(encode((Atom("r"), call_id, given_back)))
    status, answer = message[2]
    assert status == "ok", answer
    return answer, came


@pytest.mark.parametrize("spec", [REACT, NAMING], ids=["not named", "named"])
def test_an_agent_has_the_tools_of_its_call(port: PortProcess, model_server: ModelServer, spec: Any) -> None:
    """It ran without them, and answered all the same."""
    program = port.done("create_program", spec)
    for number, callback_id in enumerate(["id-1", "id-2"]):
        opts = {"lm": model(model_server, f"m{number}"), "tools": [{**STOCK, "callback": callback_id}]}
        inputs = {"question": "How many?"}
        prediction, came = answered(port, "execute_program", None, program["id"], inputs, opts, result=17)
        assert came == [(callback_id, {"article": "bolt"})]
        assert prediction["trajectory"]["observation_0"] == 17
        assert prediction["$meta"]["warnings"] == []


@pytest.mark.parametrize(
    ("spec", "path", "named"),
    [
        (NAMING, "opts.tools", '"stock"'),
        (REWARDED, "opts.reward", "reward"),
        (RETRIEVING, "opts.retriever", "retriever"),
        (EMBEDDING, "opts.embedder", "embedder"),
    ],
    ids=["tool", "reward", "retriever", "embedder"],
)
@pytest.mark.parametrize("operation", ["execute_program", "compile_program", "execute_program_batch"])
def test_what_a_program_needs_and_does_not_get_is_an_error_before_a_model_is_asked(
    port: PortProcess, model_server: ModelServer, spec: Any, path: str, named: str, operation: str
) -> None:
    program = port.done("create_program", {**spec, "lm": openai(model_server, "answer")})
    inputs = {"question": "x"} if spec in (NAMING, REWARDED) else {"query": "x"}
    if operation == "execute_program":
        details = port.failed(operation, None, program["id"], inputs)
    elif operation == "compile_program":
        opts = {"optimizer": "dspy.LabeledFewShot"}
        details = port.failed(operation, None, program["id"], [{**inputs, "answer": "y"}], opts)
    else:
        ((_, (_, details)),) = port.done(operation, None, program["id"], [inputs])
    assert (details["kind"], details["path"]) == ("input", path), details
    assert named in details["message"]
    assert model_server.requests == []


@pytest.mark.parametrize(
    ("spec", "inputs", "opts", "result"),
    [
        (REWARDED, {"question": "x"}, {"reward": {"callback": "id-1"}}, 1.0),
        (REWARDED, {"question": "x"}, {"reward": {"callback": "id-1", "description": "how short"}}, 1.0),
        (RETRIEVING, {"query": "x"}, {"retriever": {"callback": "id-1"}}, ["found"]),
        (EMBEDDING, {"query": "x"}, {"embedder": {"callback": "id-1"}}, None),
    ],
    ids=["reward", "described reward", "retriever", "embedder"],
)
def test_functions_are_brought_by_each_call(
    port: PortProcess, model_server: ModelServer, spec: Any, inputs: Any, opts: Any, result: Any
) -> None:
    program = port.done("create_program", {**spec, "lm": openai(model_server, "answer")})
    (function,) = opts
    for callback_id in ("id-1", "id-2"):
        given = {function: {**opts[function], "callback": callback_id}}
        prediction, came = answered(port, "execute_program", None, program["id"], inputs, given, result=result)
        assert {called for called, _ in came} == {callback_id}
        assert prediction["$meta"]["warnings"] == []


@pytest.mark.parametrize("spec", [NAMING, REWARDED, RETRIEVING, EMBEDDING])
def test_a_program_that_needs_functions_is_described_dumped_and_loaded(port: PortProcess, spec: Any) -> None:
    program = port.done("create_program", spec)
    needs = program["needs"]
    assert needs["tools"] or needs["functions"]
    text = port.done("dump_program", None, program["id"])
    again = port.done("load_program", text)
    assert again["needs"] == needs
    assert again["stages"] == program["stages"]
    assert port.done("dump_program", None, again["id"]) == text


def test_functions_in_the_spec_itself_stay_with_their_names_alone(port: PortProcess) -> None:
    """A function can be called only while the call lasts that brings it; the program keeps what it is called."""
    tool = {"name": "stock", "description": "d", "parameters": {"article": Atom("string")}, "function": "any"}
    modules = [{"module": "dspy.ReAct", "tools": [tool]}]
    program = port.done("create_program", {"signature": QA, "modules": modules})
    assert program["needs"]["tools"] == ["stock"]
    dumped = json.loads(port.done("dump_program", None, program["id"]))
    assert dumped["spec"]["modules"][0]["tools"] == [{"name": "stock"}]


def test_a_version_that_has_learned_with_tools_needs_them(port: PortProcess, model_server: ModelServer) -> None:
    program = port.done("create_program", REACT)
    opts: dict[str, Any] = {"lm": model(model_server, "teach"), "tools": [STOCK], "metric": "equals"}
    opts |= {"optimizer": "dspy.BootstrapFewShot", "max_bootstrapped_demos": 1}
    examples = [{"question": "How many?", "answer": "17"}]
    compiled, came = answered(port, "compile_program", None, program["id"], examples, opts, result=17)
    assert came == [("id-1", {"article": "bolt"})]
    assert compiled["needs"]["tools"] == ["stock"]
    loaded = port.done("load_program", port.done("dump_program", None, program["id"]))
    for one in (program, loaded):
        details = port.failed("execute_program", None, one["id"], {"question": "x"}, {"lm": openai(model_server, "a")})
        assert (details["kind"], details["path"]) == ("input", "opts.tools")
        given = {"lm": model(model_server, one["id"]), "tools": [{**STOCK, "callback": "id-3"}]}
        _, came = answered(port, "execute_program", None, one["id"], {"question": "x"}, given, result=17)
        assert came == [("id-3", {"article": "bolt"})]
        # The demos that it has learned are in the prompt.
        assert "How many?" in json.dumps(model_server.requests[-1].body)


@pytest.mark.parametrize("spec", [{"signature": QA}, {"signature": QA, "modules": [NAMING["modules"][0]]}])
def test_a_tool_without_a_place_is_refused(port: PortProcess, model_server: ModelServer, spec: Any) -> None:
    program = port.done("create_program", {**spec, "lm": openai(model_server, "answer")})
    tools = [STOCK, {**STOCK, "name": "other"}] if "modules" in spec else [STOCK]
    details = port.failed("execute_program", None, program["id"], {"question": "x"}, {"tools": tools})
    assert (details["kind"], details["path"]) == ("input", "opts.tools")
    assert "no place for the tool" in details["message"]
    assert model_server.requests == []


def test_a_tool_that_the_program_has_itself_is_refused(port: PortProcess) -> None:
    spec = {"modules": [{"module": "dspy.ReAct", "signature": QA, "tools": ["calculator"]}]}
    program = port.done("create_program", spec)
    opts = {"tools": ["calculator"]}
    details = port.failed("execute_program", None, program["id"], {"question": "x"}, opts)
    assert (details["kind"], details["path"]) == ("input", "opts.tools")
    assert details["message"].startswith('the program has the tool "calculator" already')


def test_a_function_that_a_program_does_not_need_is_warned_of(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    program = port.done("create_program", QA)
    opts = {"reward": {"callback": "id-1"}}
    prediction = port.done("execute_program", None, program["id"], {"question": "Why?"}, opts)
    assert "takes no reward" in str(prediction["$meta"]["warnings"])
    details = port.failed("execute_program", None, program["id"], {"question": "Why?"}, {**opts, "strict": True})
    assert details["path"] == "opts.reward"


def test_concurrent_calls_of_one_program_have_each_its_own_functions(
    port: PortProcess, model_server: ModelServer
) -> None:
    program = port.done("create_program", {**REWARDED, "lm": openai(model_server, "answer")})
    for number in range(10):
        opts = {"reward": {"callback": f"id-{number}"}}
        port.send_call("dspy_bridge", "execute_program", [None, program["id"], {"question": f"q{number}"}, opts])
    asked, done = {}, 0
    while done < 10:
        message = port.receive()
        if message[0] == "C":
            _, call_id, _, _, (callback_id, given), _ = message
            asked[callback_id] = given["inputs"]["question"]
            port.send_message(encode((Atom("r"), call_id, 1.0)))
        else:
            done += 1
    assert asked == {f"id-{number}": f"q{number}" for number in range(10)}
