"""The option ``adapter`` of a call is read, and adapters fall back or use a second model."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.adapters import read_adapter
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = ("dspy.Predict", "question -> answer", {"question": "hi"})


def test_adapters_are_named_or_written_as_maps() -> None:
    assert isinstance(read_adapter(None).build(), dspy.ChatAdapter)
    assert isinstance(read_adapter("json").build(), dspy.JSONAdapter)
    assert isinstance(read_adapter({"name": "xml"}).build(), dspy.XMLAdapter)
    assert read_adapter({"json_fallback": False}).build().use_json_adapter_fallback is False


@pytest.mark.parametrize(
    ("value", "path", "part"),
    [
        ("jsn", "opts.adapter", 'did you mean "json"'),
        (7, "opts.adapter", "got 7"),
        ("two_step", "opts.adapter.extraction_model", "needs a model"),
        (
            {"name": "two_step", "extraction_model": {"model": "x"}},
            "opts.adapter.extraction_model.provider",
            "provider",
        ),
        ({"name": "json", "json_fallback": False}, "opts.adapter.json_fallback", "json_fallback"),
        ({"json_fallback": 0}, "opts.adapter.json_fallback", "true or false"),
    ],
)
def test_wrong_adapter_is_reported_with_its_path(value: Any, path: str, part: str) -> None:
    with pytest.raises(OperationError) as caught:
        read_adapter(value)
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", path)
    assert part in caught.value.message


def test_answer_that_cannot_be_read_costs_no_second_request_without_fallback(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    opts: dict[str, Any] = {"lm": openai(model_server, "garbage")}
    assert shared_port.failed("execute_module", *QA, opts)["kind"] == "parse"
    assert len(model_server.requests) == 2
    opts["adapter"] = {"json_fallback": False}
    assert shared_port.failed("execute_module", *QA, opts)["kind"] == "parse"
    assert len(model_server.requests) == 3


def test_earlier_turns_are_turns_in_the_first_of_two_steps(shared_port: PortProcess, model_server: ModelServer) -> None:
    """They were the text of a Python list in the last message."""
    model_server.script("turns", {"content": "Well, it is 42."})
    adapter = {"name": "two_step", "extraction_model": openai(model_server, "reader")}
    opts = {
        "lm": openai(model_server, "scripted:turns"),
        "adapter": adapter,
        "demos": [{"question": "d", "answer": "e"}],
    }
    turns = [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}]
    signature = "history: dspy.History, question -> answer"
    inputs = {"history": {"messages": turns}, "question": "Three?"}
    shared_port.done("execute_module", "dspy.Predict", signature, inputs, opts)
    system, *messages = model_server.requests[0].body["messages"]
    assert "1. `question` (str):" in system["content"]
    assert [(message["role"], message["content"]) for message in messages] == [
        *(("user", "question: d"), ("assistant", "answer: e")),
        *(("user", "question: One?"), ("assistant", "answer: 1")),
        *(("user", "question: Two?"), ("assistant", "answer: 2")),
        ("user", "question: Three?"),
    ]


def test_two_steps_ask_a_second_model_for_the_fields(shared_port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("free", {"content": "Well, it is 42."})
    adapter = {"name": "two_step", "extraction_model": openai(model_server, "reader")}
    opts = {"lm": openai(model_server, "scripted:free"), "adapter": adapter}
    prediction = shared_port.done("execute_module", *QA, opts)
    asked, read = model_server.requests
    assert (asked.model, read.model) == ("scripted:free", "reader")
    assert "Well, it is 42." in read.body["messages"][-1]["content"]
    assert prediction["$meta"]["model"] == "openai/scripted:free"
    assert set(prediction["$meta"]["usage"]) == {"openai/scripted:free", "openai/reader"}
