"""The deadline of a call that brings much holds while other such calls, or tools, keep the threads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.term import Atom
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

LARGE = "x" * 70_000
HEAVY = {"question": [[number, "b", 2.5] for number in range(100_000)]}
ANY = ("dspy.Predict", "question: Any -> answer")
TEXT = ("dspy.Predict", "question -> answer")


def begin(port: PortProcess, *call: Any) -> int:
    return port.send_call("dspy_bridge", call[0], call[1:])


def answer(port: PortProcess, call_id: int) -> Any:
    """Return the result of a call; answers of others that come before are dropped."""
    while (message := port.receive())[1] != call_id:
        pass
    return message[2]


@pytest.fixture
def model(model_server: ModelServer) -> dict[str, Any]:
    return openai(model_server, "echo")


def test_deadline_holds_behind_other_calls_that_bring_much(port: PortProcess, model: dict[str, Any]) -> None:
    """It was answered seconds later: the deadline began when the options had been read."""
    port.done("execute_module", *TEXT, "x", {"lm": model})
    for _ in range(6):
        begin(port, "execute_module", *ANY, HEAVY, {"lm": model, "timeout": 60_000})
    begun_at = time.monotonic()
    late = begin(port, "execute_module", *TEXT, LARGE, {"lm": model, "timeout": 100})
    status, (_, details) = answer(port, late)
    assert status == "error"
    assert (details["kind"], details["stage"]) == ("timeout", "queue")
    assert time.monotonic() - begun_at < 20


def test_call_that_brings_much_is_cancelled_by_its_id_at_once(port: PortProcess, model: dict[str, Any]) -> None:
    port.done("execute_module", *TEXT, "x", {"lm": model})
    for number in range(6):
        begin(port, "execute_module", *ANY, HEAVY, {"lm": model, "request_id": f"r{number}"})
    cancelled = [answer(port, begin(port, "cancel", f"r{number}")) for number in range(6)]
    assert cancelled[-1] == ("ok", 1)
    status, prediction = answer(port, begin(port, "execute_module", *TEXT, LARGE, {"lm": model}))
    assert status == "ok"
    assert prediction["answer"]


TOOLS = """
import time

from erlport_bridge.programs.tools import offer


@offer
def sleep() -> str:
    "Sleep."
    time.sleep(30)
    return "done"
"""


def test_tools_that_hold_all_threads_do_not_hold_calls_that_bring_much(
    tmp_path: Path, model: dict[str, Any], model_server: ModelServer
) -> None:
    (tmp_path / "sleeping.py").write_text(TOOLS)
    asleep = {"fields": {"next_thought": "-", "next_tool_name": "sleep", "next_tool_args": {}}}
    model_server.script("sleepy", *[asleep] * 2)
    flags = ["--preload=sleeping", "--max-threads=2"]
    with PortProcess(flags, environment={"PYTHONPATH": str(tmp_path)}) as port:
        port.done("configure_lm", Atom("embedded"), {})
        for _ in range(2):
            opts = {"lm": openai(model_server, "scripted:sleepy"), "tools": ["sleep"], "timeout": 60_000}
            begin(port, "execute_module", "dspy.ReAct", TEXT[1], "x", opts)
        model_server.wait_for_requests(2)
        status, prediction = answer(port, begin(port, "execute_module", *TEXT, LARGE, {"timeout": 25_000}))
        assert status == "ok", prediction[1]["message"]


def test_id_beyond_its_limit_stands_in_no_error(port: PortProcess) -> None:
    """The id of a call that brings much is taken before its options are checked."""
    details = port.failed("execute_module", *TEXT, LARGE, {"request_id": "r" * 100_000})
    assert details["path"] == "opts.request_id"
    assert len(str(details)) < 3_000


def test_a_heavy_item_costs_the_others_of_its_batch_nothing(port: PortProcess, model: dict[str, Any]) -> None:
    """The budget of the whole batch begins early; that of each item is its own."""
    port.done("execute_module", *TEXT, "x", {"lm": model})
    items = [{"question": "x"}, HEAVY, {"question": "y"}]
    opts = {"lm": model, "timeout": 100_000, "item_timeout": 30_000}
    results = port.done("execute_batch", *ANY, items, opts)
    assert [status for status, _ in results] == ["ok"] * 3, [str(result)[:300] for _, result in results]
    late = port.done("execute_batch", *ANY, items, {"lm": openai_slow(model), "timeout": 100_000, "item_timeout": 1})
    assert [result[1]["kind"] for _, result in late] == ["timeout"] * 3


def openai_slow(model: dict[str, Any]) -> dict[str, Any]:
    return {**model, "model": "delay-2000"}
