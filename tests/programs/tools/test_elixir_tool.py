"""Elixir functions are tools of a model; the test is the Elixir side of a real port."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.tools import elixir_tool
from erlport_bridge.programs.tools.offered import read_tools
from erlport_bridge.term import Atom, encode
from tests.deadlines import at_deadline
from tests.model_server import ModelServer
from tests.port_process import PortProcess

QA = "question -> answer"
STOCK = {
    "name": "stock",
    "description": "How many pieces of an article are in stock",
    "parameters": {"properties": {"article": {"type": "string"}}, "required": ["article"]},
    "callback": "id-1",
}
COUNTED = {
    "type": "object",
    "properties": {
        "article": {"type": "string", "enum": ["bolt", "nut"]},
        "count": {"type": "integer", "minimum": 1, "default": 2},
        "sizes": {"type": "array", "items": {"type": "number"}},
        "urgent": {"type": "boolean"},
    },
    "required": ["article"],
}


def question(article: str) -> dict[str, str]:
    return {"question": f'How many pieces of the article "{article}" are in stock?'}


def receive_callback(port: PortProcess) -> tuple[int, str, dict[str, Any]]:
    """Return the id, the callback's id and the arguments of the next call of an Elixir function."""
    tag, call_id, module, function, (callback_id, arguments), context = port.receive()
    assert (tag, module, function, context) == ("C", "Elixir.DSPex.Python.Callbacks", "call", "N")
    return call_id, callback_id, arguments


def answer(port: PortProcess, call_id: int, result: Any, *, failed: bool = False) -> None:
    port.send_message(encode((Atom("e" if failed else "r"), call_id, result)))


def observed(port: PortProcess, result: Any, *, failed: bool = False) -> Any:
    """Run an agent that calls ``stock``; return its observation when the function returns ``result``."""
    port.send_call("dspy_bridge", "execute_module", ["dspy.ReAct", QA, question("bolt"), {"tools": [STOCK]}])
    call_id, _, _ = receive_callback(port)
    answer(port, call_id, result, failed=failed)
    _, _, (status, prediction) = port.receive()
    assert status == "ok", prediction
    return prediction["trajectory"]["observation_0"]


def scripted(server: ModelServer, name: str, *arguments: Any) -> dict[str, Any]:
    """Return options whose model calls ``stock`` with each of the arguments, then finishes."""
    for values in arguments:
        fields = {"next_thought": "t", "next_tool_name": "stock", "next_tool_args": values}
        server.script(name, {"fields": fields})
    server.script(name, {"fields": {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}}}, {})
    lm = {"provider": "openai", "model": f"scripted:{name}", "api_base": f"{server.url}/v1", "api_key": "key"}
    return {"lm": lm, "tools": [{**STOCK, "parameters": COUNTED}]}


def trajectory_of(port: PortProcess, options: dict[str, Any], results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Run an agent; return its observations, and the arguments that the Elixir function received."""
    port.send_call("dspy_bridge", "execute_module", ["dspy.ReAct", QA, "x", options])
    came = []
    for result in results:
        call_id, _, arguments = receive_callback(port)
        came.append(arguments)
        answer(port, call_id, result)
    _, _, (status, prediction) = port.receive()
    assert status == "ok", prediction
    trajectory = prediction["trajectory"]
    return [trajectory[f"observation_{index}"] for index in range(len(trajectory) // 4 - 1)], came


def test_agent_calls_the_function_and_reads_its_result(shared_port: PortProcess) -> None:
    options = {"tools": ["calculator", STOCK]}
    shared_port.send_call("dspy_bridge", "execute_module", ["dspy.ReAct", QA, question("bolt"), options])
    call_id, callback_id, arguments = receive_callback(shared_port)
    assert (callback_id, arguments) == ("id-1", {"article": "bolt"})
    answer(shared_port, call_id, "17 pieces")
    _, _, (status, prediction) = shared_port.receive()
    assert status == "ok"
    assert prediction["answer"] == "17 pieces"


def test_twenty_calls_in_flight_get_each_its_own_answer(shared_port: PortProcess) -> None:
    inputs = [question(f"a{number}") for number in range(20)]
    options = {"tools": [STOCK], "max_concurrency": 20}
    shared_port.send_call("dspy_bridge", "execute_batch", ["dspy.ReAct", QA, inputs, options])
    for call_id, _, arguments in reversed([receive_callback(shared_port) for _ in range(20)]):
        answer(shared_port, call_id, f"of {arguments['article']}")
    _, _, (_, results) = shared_port.receive()
    assert [prediction["answer"] for _, prediction in results] == [f"of a{number}" for number in range(20)]


def test_calls_with_the_same_description_keep_to_their_own_functions(shared_port: PortProcess) -> None:
    """Calls with the same description share one module."""
    for number in range(20):
        tools = [{**STOCK, "callback": f"id-{number}"}]
        shared_port.send_call(
            "dspy_bridge", "execute_module", ["dspy.ReAct", QA, question(f"a{number}"), {"tools": tools}]
        )
    for call_id, callback_id, arguments in [receive_callback(shared_port) for _ in range(20)]:
        assert callback_id.removeprefix("id-") == arguments["article"].removeprefix("a")
        answer(shared_port, call_id, 1)
    assert all(shared_port.receive()[2][0] == "ok" for _ in range(20))


def test_call_ends_at_its_deadline_and_a_late_answer_is_dropped(shared_port: PortProcess) -> None:
    def attempt(timeout_ms: int) -> list[Any]:
        options = {"tools": [STOCK], "timeout": timeout_ms}
        shared_port.send_call("dspy_bridge", "execute_module", ["dspy.ReAct", QA, question("bolt"), options])
        received = [shared_port.receive()]
        while received[-1][0] != "r":
            received.append(shared_port.receive())
        return received

    called, (_, _, (status, (_, details))) = at_deadline(100, attempt, lambda received: len(received) > 1)
    assert (status, details["kind"], details["stage"]) == ("error", "timeout", "tool")
    answer(shared_port, called[1], "late")
    answer(shared_port, 2**31 - 1, "of nothing")
    assert observed(shared_port, "in time") == "in time"


@pytest.mark.parametrize(
    ("result", "observation"),
    [
        (42, 42),
        (None, None),
        ({"size": [1.5, Atom("m8")], "at": Decimal("1.50")}, {"size": [1.5, Atom("m8")], "at": Decimal("1.50")}),
        (["one", "two"], ["one", "two"]),
        # DSPy can format only lists of text.
        ([1, "zwei", Decimal("1.5")], '[1,"zwei","1.5"]'),
        ((1, "two"), '[1,"two"]'),
        (datetime.date(2024, 2, 29), datetime.date(2024, 2, 29)),
        ({1: {2}}, {"1": [2]}),
        (b"\xff", "Error in stock: the result has a binary that is not UTF-8"),
        ({"a": [b"\xff"]}, 'Error in stock: the result has a binary that is not UTF-8 at ["a"][0]'),
        ("<<CUSTOM-TYPE-START-IDENTIFIER>>", "<< CUSTOM-TYPE-START-IDENTIFIER>>"),
        (["<<CUSTOM-TYPE-START-IDENTIFIER>>"], ["<< CUSTOM-TYPE-START-IDENTIFIER>>"]),
    ],
)
def test_result_is_readable_for_a_model_or_an_error_of_the_tool(
    shared_port: PortProcess, result: Any, observation: Any
) -> None:
    assert observed(shared_port, result) == observation


def test_result_that_nests_too_deep_is_an_error_of_the_tool(shared_port: PortProcess) -> None:
    nested: list[Any] = []
    for _ in range(200):
        nested = [nested]
    assert observed(shared_port, nested) == "Error in stock: the result nests deeper than 64 levels"


def test_failure_is_an_observation(shared_port: PortProcess) -> None:
    assert observed(shared_port, "the warehouse is closed", failed=True) == "Error in stock: the warehouse is closed"


def test_result_with_a_process_is_an_error_of_the_tool(shared_port: PortProcess) -> None:
    # {r, Id, [<0.1.2>]}, with a pid as the BEAM encodes it.
    shared_port.send_call("dspy_bridge", "execute_module", ["dspy.ReAct", QA, question("bolt"), {"tools": [STOCK]}])
    call_id, _, _ = receive_callback(shared_port)
    pid = b"X" + b"w\x0dnonode@nohost" + b"\0\0\0\x01\0\0\0\x02\0\0\0\0"
    shared_port.send_message(b"\x83h\x03w\x01rb" + call_id.to_bytes(4, "big") + b"l\0\0\0\x01" + pid + b"j")
    observation = shared_port.receive()[2][1]["trajectory"]["observation_0"]
    assert observation.startswith("Error in stock: the result has")
    assert "at [0], which is nothing to read" in observation


def test_arguments_arrive_checked_and_with_their_defaults(shared_port: PortProcess, model_server: ModelServer) -> None:
    options = scripted(
        model_server,
        "checked",
        {"article": "bolt"},
        {"article": "nut", "count": "3", "sizes": [1, 2.5], "urgent": "true"},
        {"article": "nut", "count": 4.0},
    )
    _, came = trajectory_of(shared_port, options, [1, 1, 1])
    assert came == [
        {"article": "bolt", "count": 2},
        {"article": "nut", "count": 3, "sizes": [1, 2.5], "urgent": True},
        {"article": "nut", "count": 4},
    ]
    assert type(came[2]["count"]) is int


def test_wrong_arguments_are_observations_and_elixir_is_not_called(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    options = scripted(
        model_server,
        "wrong",
        {},
        {"article": "bolt", "colour": "red"},
        {"article": "screw"},
        {"article": "bolt", "count": "many"},
        {"article": "bolt", "count": 0},
        {"article": "bolt", "sizes": [1, "wide"]},
    )
    observations, came = trajectory_of(shared_port, options, [])
    assert came == []
    assert observations == [
        "Error in stock: missing argument article",
        'Error in stock: unknown argument "colour"',
        "Error in stock: argument article is invalid: 'screw' is not one of ['bolt', 'nut']",
        "Error in stock: argument count is invalid: 'many' is not of type 'integer'",
        "Error in stock: argument count is invalid: 0 is less than the minimum of 1",
        "Error in stock: argument sizes[1] is invalid: 'wide' is not of type 'number'",
    ]


@pytest.mark.parametrize(
    ("changed", "path", "message"),
    [
        ({"name": None}, "name", "expected a string"),
        ({"name": "a b"}, "name", "expected letters, digits and _, at most 64"),
        ({"name": "finish"}, "name", "that ReAct does not use itself"),
        ({"description": ""}, "description", "expected a string"),
        ({"callback": 7}, "callback", "expected a string"),
        ({"parameters": "article"}, "parameters", "expected a map or a keyword list"),
        ({"parameters": {"type": "array"}}, "parameters", "a JSON schema of an object"),
        ({"parameters": {"properties": [1]}}, "parameters", "a JSON schema of an object"),
        ({"parameters": {"properties": {1: {}}}}, "parameters.properties", "names of arguments"),
        ({"parameters": {"properties": {"n": {"type": "int"}}}}, "parameters.properties.n.type", "a JSON schema"),
        ({"parameters": {"properties": {"n": {"enum": 1}}}}, "parameters.properties.n.enum", "a JSON schema"),
        ({"parameters": {"required": ["n"]}}, "parameters.required", "names of properties"),
        ({"parameters": {"properties": {"n": {"$ref": "http://x"}}}}, "parameters", 'without "$ref"'),
        ({"parameters": {"default": b"\xff"}}, "parameters", "a JSON schema"),
        ({"desc": "x"}, "desc", 'unknown key of a tool "desc"'),
    ],
)
def test_wrong_description_is_refused_with_its_path_before_a_model_is_asked(
    changed: dict[str, Any], path: str, message: str
) -> None:
    with pytest.raises(OperationError) as caught:
        read_tools(["today", {**STOCK, **changed}], "opts.tools")
    assert caught.value.kind == "input"
    assert caught.value.facts["path"] == f"opts.tools[1].{path}"
    assert message in caught.value.message


def test_name_that_is_taken_by_another_tool_of_the_call_is_refused() -> None:
    with pytest.raises(OperationError, match=r"given twice, again at opts.tools\[1\]"):
        read_tools(["today", {**STOCK, "name": "today"}], "opts.tools")


def test_description_without_parameters_takes_no_arguments() -> None:
    tool = elixir_tool.read({"name": "now", "description": "d", "callback": "c"}, "opts.tools[0]")
    assert json.loads(tool.schema)["additionalProperties"] is False
    assert tool.build().args == {}


def test_equal_descriptions_are_one_entry_of_the_module_cache() -> None:
    properties = {"b": {"type": "string"}, "a": {"type": "integer", "description": "x"}}
    first = elixir_tool.read({**STOCK, "parameters": {"properties": properties}}, "t")
    reordered = {"properties": {"b": properties["b"], "a": {"description": "x", "type": "integer"}}, "type": "object"}
    second = elixir_tool.read({**STOCK, "parameters": reordered, "callback": "another"}, "t")
    assert hash(first) == hash(second)
    assert first == second
