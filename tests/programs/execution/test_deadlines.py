"""A call is answered by its deadline, whatever its work does, and leaves no task, thread or process behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import at_deadline
from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.proc import NEEDS_PROC

QA = "question -> answer"
#: How much later than its deadline a call may be answered, in seconds.
LATE_S = 5.0

APPLICATION = """
import asyncio, os, sys, threading, time
from pathlib import Path

from erlport_bridge.programs.tools import offer

@offer
def blocks(question: str) -> str:
    "Answers a question after a while."
    time.sleep(20)
    return "too late"

@offer
def leaves(question: str) -> str:
    "Answers a question by ending the process."
    sys.exit(3)

@offer
async def leaves_async(question: str) -> str:
    "Answers a question by ending the process."
    sys.exit(3)

@offer
def stops(question: str) -> str:
    "Answers a question with the first of nothing."
    return next(iter([]))

async def tasks():
    return len(asyncio.all_tasks())

def threads():
    return threading.active_count()

def children():
    return len(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortProcess]:
    """Yield a port with the tools of an application."""
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "application.py").write_text(APPLICATION)
    # No warm sandbox: the tests count processes.
    environment = {"PYTHONPATH": str(folder), "DSPEX_WARM_SANDBOXES": "0"}
    with PortProcess(["--preload=application"], environment=environment) as started:
        started.done("configure_lm", "embedded", {})
        # This call loads what is imported at the first use.
        started.done("execute_module", "dspy.ProgramOfThought", QA, "What is 6 * 7?")
        yield started


def provider(server: ModelServer, model: str) -> dict[str, Any]:
    return {"provider": "openai", "model": model, "api_base": f"{server.url}/v1", "num_retries": 0}


def scripted_tool(server: ModelServer, tool: str, script: str | None = None) -> dict[str, Any]:
    """Return the options of a ReAct call whose model calls a tool once, by a script of the tool's name."""
    script = script or tool
    call = {"next_thought": "-", "next_tool_name": tool, "next_tool_args": {"question": "x"}}
    finish = {"next_thought": "-", "next_tool_name": "finish", "next_tool_args": {}}
    replies = [{"fields": fields} for fields in (call, finish, {"reasoning": "-", "answer": "done"})]
    server.script(script, *replies)
    return {"lm": provider(server, f"scripted:{script}"), "tools": [tool]}


def timed(port: PortProcess, operation: str, *arguments: Any) -> tuple[float, Any]:
    """Return the duration of an operation, in seconds, and its result."""
    started_at = time.monotonic()
    result = port.operate(operation, *arguments)
    return time.monotonic() - started_at, result


@pytest.mark.parametrize(
    "module",
    ["dspy.Predict", "dspy.ChainOfThought", "dspy.ReAct", "dspy.ProgramOfThought", "dspy.MultiChainComparison"],
)
def test_every_module_is_answered_by_its_deadline(port: PortProcess, model_server: ModelServer, module: str) -> None:
    def attempt(timeout_ms: int) -> Any:
        options = {"lm": provider(model_server, "delay-60000"), "timeout": timeout_ms}
        took_s, (_, (_, details)) = timed(port, "execute_module", module, QA, "x", options)
        assert timeout_ms / 1_000 <= took_s < timeout_ms / 1_000 + LATE_S
        return details

    details = at_deadline(300, attempt, lambda details: details["stage"] == "model")
    assert details["kind"] == "timeout"


def test_tool_that_blocks_does_not_delay_the_answer(port: PortProcess, model_server: ModelServer) -> None:
    def attempt(timeout_ms: int) -> Any:
        options = {**scripted_tool(model_server, "blocks", f"within {timeout_ms}"), "timeout": timeout_ms}
        took_s, (_, (_, details)) = timed(port, "execute_module", "dspy.ReAct", QA, "x", options)
        assert took_s < timeout_ms / 1_000 + LATE_S
        return details

    details = at_deadline(400, attempt, lambda details: details["stage"] == "tool")
    assert details["kind"] == "timeout"


@pytest.mark.parametrize("tool", ["leaves", "leaves_async", "stops"])
def test_tool_that_ends_oddly_is_an_observation_and_the_port_lives(
    port: PortProcess, model_server: ModelServer, tool: str
) -> None:
    """SystemExit once stopped the event loop for good; after StopIteration the call had no answer."""
    options = {**scripted_tool(model_server, tool), "timeout": 5_000}
    prediction = port.done("execute_module", "dspy.ReAct", QA, "x", options)
    assert prediction["trajectory"]["observation_0"].startswith(f"Error in {tool}: ")
    assert prediction["answer"] == "done"
    assert port.done("ping", 1)["payload"] == 1


def test_program_is_answered_by_its_deadline(port: PortProcess, model_server: ModelServer) -> None:
    spec = {"signature": QA, "modules": ["dspy.Predict"] * 3, "lm": provider(model_server, "delay-200")}
    program = port.done("create_program", spec)
    took_s, (_, (_, details)) = timed(port, "execute_program", None, program["id"], "x", {"timeout": 300})
    assert details["kind"] == "timeout"
    assert took_s < 0.3 + LATE_S
    port.done("close_session", program["session_id"])


def test_large_batch_is_answered_by_its_deadline(port: PortProcess, model_server: ModelServer) -> None:
    """Ten thousand results, however little of the time is left when the items have been decoded."""
    opts = {"timeout": 500, "lm": provider(model_server, "delay-60000")}
    took_s, (status, results) = timed(port, "execute_batch", "dspy.Predict", QA, ["x"] * 10_000, opts)
    assert (status, len(results)) == ("ok", 10_000)
    assert {result[1][1]["kind"] for result in results} == {"timeout"}
    # It does not wait for the model; the time of decoding and encoding depends on the machine.
    assert took_s < 30


def test_batch_however_concurrent_does_not_hold_up_other_calls(port: PortProcess) -> None:
    batch = port.send_call(
        "dspy_bridge", "execute_batch", ["dspy.Predict", QA, ["x"] * 2_000, {"max_concurrency": 256}]
    )
    started_at = time.monotonic()
    ping = port.send_call("dspy_bridge", "ping", [1])
    assert port.receive()[1] == ping
    ping_s = time.monotonic() - started_at
    _, call_id, (_, results) = port.receive()
    assert (call_id, len(results)) == (batch, 2_000)
    # In proportion to the batch on a machine that is busy with other things.
    assert ping_s < max(2, (time.monotonic() - started_at) / 4)


def test_empty_batch_is_an_empty_list(port: PortProcess) -> None:
    assert port.done("execute_batch", "dspy.Predict", QA, []) == []


@NEEDS_PROC
def test_fifty_timeouts_leave_no_task_no_thread_and_no_process(port: PortProcess, model_server: ModelServer) -> None:
    def held() -> list[int]:
        return [port.call("application", name)[2] for name in ("tasks", "threads", "children")]

    options = {"lm": provider(model_server, "delay-1000"), "timeout": 50}
    modules = ["dspy.Predict", "dspy.ReAct", "dspy.MultiChainComparison", "dspy.ProgramOfThought", "dspy.Predict"]
    before = held()
    for number in range(50):
        details = port.failed("execute_module", modules[number % 5], QA, "x", options)
        assert details["kind"] == "timeout"
    # An interrupted thread or process may take a moment to end; the timeout of the test ends a vain wait.
    while (held()[0], held()[2]) != (before[0], before[2]):
        time.sleep(0.05)
    # The thread pool keeps its threads for later calls; their number is bounded.
    assert held()[1] <= 64 + 10
    assert port.done("execute_module", "dspy.Predict", QA, "x")["answer"]
