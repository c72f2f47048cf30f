"""Arguments of native calls of tools that are no JSON object are answers that cannot be read, in every API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erlport_bridge.term import OtpErlangPid
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.execution.test_streaming import PID, finish

CALLS = {"inputs": ["question", "tools: list[dspy.Tool]"], "outputs": {"calls": "dspy.ToolCalls"}}
INPUTS = {"question": "?", "tools": [{"name": "stock", "description": "d", "parameters": {}}]}
#: Texts of arguments, with what they mean; ``None``: nothing.
TEXTS: dict[str, dict[str, Any] | None] = {
    "[1]": None,
    "7": None,
    '"Lisbon"': None,
    "true": None,
    '{"a": "Lis': None,
    "no JSON": None,
    '[{"a": 1}]': None,
    "null": {},
    '{"a": 1,}': {"a": 1},
    "{'a': True}": {"a": True},
    '```json\n{"a": 1}\n```': {"a": 1},
    '{"value": [1]}': {"value": [1]},
    '{"partial_json": "{"}': {"partial_json": "{"},
}
APIS = ("chat", "responses", "anthropic", "gemini")


def model(server: ModelServer, api: str) -> dict[str, Any]:
    lm = openai(server, "scripted:calls")
    return (
        lm
        | {
            "chat": {},
            "responses": {"model_type": "responses"},
            "anthropic": {"provider": "anthropic", "api_base": server.url},
            "gemini": {"provider": "gemini", "api_base": server.url},
        }[api]
    )


def options(server: ModelServer, api: str = "chat", **more: Any) -> dict[str, Any]:
    return {"lm": model(server, api), "adapter": {"name": "chat", "native_function_calling": True}, **more}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_arguments_that_are_no_object_cannot_be_read(
    port: PortProcess, model_server: ModelServer, text: str, is_stream: bool
) -> None:
    """They were ``{:ok, …}`` with the arguments ``value`` or ``partial_json``, which the model had not written."""
    model_server.script(
        "calls", {"calls": [{"name": "stock", "arguments": "{}"}, {"name": "stock", "arguments": text}]}
    )
    opts, expected = options(model_server), TEXTS[text]
    if is_stream:
        assert isinstance(PID, OtpErlangPid)
        signature = {**CALLS, "outputs": {"calls": "dspy.ToolCalls", "note": "str"}}
        call_id = port.send_call("dspy_bridge", "stream_module", [PID, "s", "dspy.Predict", signature, INPUTS, opts])
        _, (status, answer) = finish(port, call_id)
    else:
        status, answer = port.operate("execute_module", "dspy.Predict", CALLS, INPUTS, opts)
    assert model_server.requests[0].body.get("stream", False) is is_stream
    if expected is not None:
        assert status == "ok", answer
        assert [call["args"] for call in answer["calls"]["tool_calls"]] == [{}, expected]
        return
    _, details = answer
    path = 'outputs.calls.tool_calls[1]["args"]'
    assert (status, details["kind"], details.get("path")) == ("error", "parse", path), details
    assert f"expected a JSON object at {path}, got " in details["message"]


@pytest.mark.parametrize("args", [[1], 7, "Lisbon", '{"a": 1}'])
@pytest.mark.parametrize("api", APIS)
def test_no_api_takes_such_arguments_for_others(
    shared_port: PortProcess, model_server: ModelServer, api: str, args: Any
) -> None:
    """Those of Anthropic's and Gemini's APIs were none."""
    model_server.script("calls", {"calls": [{"name": "stock", "args": args}]})
    opts = options(model_server, api)
    status, answer = shared_port.operate("execute_module", "dspy.Predict", CALLS, INPUTS, opts)
    if args == '{"a": 1}' and api in ("anthropic", "gemini"):  # the object as text
        assert (status, answer["calls"]["tool_calls"][0]["args"]) == ("ok", {"a": 1})
    else:
        assert (status, answer[1]["kind"]) == ("error", "parse"), answer


@pytest.mark.parametrize("api", APIS)
def test_a_call_without_arguments_has_none(shared_port: PortProcess, model_server: ModelServer, api: str) -> None:
    model_server.script("calls", {"calls": [{"name": "stock", "args": None}]})
    answer = shared_port.done("execute_module", "dspy.Predict", CALLS, INPUTS, options(model_server, api))
    assert answer["calls"]["tool_calls"][0]["args"] == {}


def test_arguments_are_asked_for_again(shared_port: PortProcess, model_server: ModelServer) -> None:
    right = {"calls": [{"name": "stock", "args": {"a": 1}}]}
    model_server.script("calls", {"calls": [{"name": "stock", "arguments": "[1]"}]}, right)
    opts = options(model_server, parse_retries=1)
    answer = shared_port.done("execute_module", "dspy.Predict", CALLS, INPUTS, opts)
    assert answer["calls"]["tool_calls"][0]["args"] == {"a": 1}
    assert "expected a JSON object" in model_server.requests[-1].body["messages"][0]["content"]


@pytest.mark.parametrize("arguments", ["[1]", '"6 * 7"', '{"expression": "6 *'])
def test_an_agent_reads_what_was_wrong(shared_port: PortProcess, model_server: ModelServer, arguments: str) -> None:
    """The tool was called with ``value`` or ``partial_json``, and the model read that it has no such argument."""
    right = {"calls": [{"name": "submit", "args": {"answer": "6"}}]}
    model_server.script("calls", {"calls": [{"name": "calculator", "arguments": arguments}]}, right)
    opts = options(model_server, tools=["calculator"], max_iters=2)
    prediction = shared_port.done("execute_module", "dspy.ReActV2", "question -> answer", "Where?", opts)
    assert (prediction["answer"], prediction["termination_reason"]) == ("6", "submit")
    asked = str(model_server.requests[-1].body["messages"])
    assert "Your last answer could not be used: expected a JSON object at outputs.tool_calls" in asked
    assert "partial_json" not in asked


@pytest.mark.parametrize("args", ["[1]", "7", '"text"', "no JSON"])
@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_a_step_whose_arguments_are_no_object_is_an_observation(
    shared_port: PortProcess, model_server: ModelServer, adapter: str, args: str
) -> None:
    step = {"next_thought": "t", "next_tool_name": "calculator", "next_tool_args": args}
    end = {**step, "next_tool_name": "finish", "next_tool_args": "{}", "reasoning": "r", "answer": "6"}
    sections = {
        "chat": "".join(f"[[ ## {name} ## ]]\n{value}\n" for name, value in step.items()),
        "json": json.dumps({**step, "next_tool_args": json.loads(args) if args != "no JSON" else args}),
        "xml": "".join(f"<{name}>{value}</{name}>" for name, value in step.items()),
    }
    ends = {
        "chat": "".join(f"[[ ## {name} ## ]]\n{value}\n" for name, value in end.items()),
        "json": json.dumps({**end, "next_tool_args": {}}),
        "xml": "".join(f"<{name}>{value}</{name}>" for name, value in end.items()),
    }
    replies = ({"content": text} for text in (sections[adapter], ends[adapter], ends[adapter]))
    model_server.script("calls", *replies)
    form: Any = adapter if adapter == "json" else {"name": adapter, "json_fallback": False}
    opts = {"lm": model(model_server, "chat"), "adapter": form, "tools": ["calculator"]}
    prediction = shared_port.done("execute_module", "dspy.ReAct", "question -> answer", "Where?", opts)
    assert prediction["answer"] == "6"
    assert "Error in this step: " in prediction["trajectory"]["observation_0"]
