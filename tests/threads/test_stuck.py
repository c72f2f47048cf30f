"""Test that work in threads ends with its call, and that stuck threads are counted, replaced and finally refused."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.term import Atom, encode
from tests.deadlines import at_deadline
from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.proc import NEEDS_PROC

QA = "question -> answer"
LONG_S = 20
_numbers = itertools.count()

APPLICATION = """
import contextlib, os, threading
from pathlib import Path

from erlport_bridge.programs.tools import offer

_read, _write = os.pipe()

def loop(number=0, for_ever=True):
    while for_ever:
        number += 1
    return number

def block():
    "Blocks in C, and does not see an exception until it is released."
    os.read(_read, 1)
    return "released"

async def release(count=1):
    os.write(_write, b"x" * count)

def count(limit):
    number = 0
    for number in range(1, limit + 1):
        pass
    return number

@offer
def loops(question: str) -> str:
    "Answers a question never."
    return loop()

@offer
def blocks(question: str) -> str:
    "Answers a question when it is released."
    return block()

def threads():
    return threading.active_count()

def children():
    # Each thread has the children that it has started; a thread may end meanwhile.
    found = 0
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += len(file.read_text().split())
    return found
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which a port can call the application."""
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "application.py").write_text(APPLICATION)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    # Without warm sandboxes, because a test counts processes.
    return {"PYTHONPATH": path, "DSPEX_WARM_SANDBOXES": "0"}


@pytest.fixture
def port(environment: dict[str, str]) -> Iterator[PortProcess]:
    """Yield a port of the application."""
    with started(environment) as port:
        yield port


def started(environment: dict[str, str], *flags: str) -> PortProcess:
    return PortProcess(["--preload=application,dspy_bridge", *flags], environment=environment)


def cancel(port: PortProcess, call_id: int) -> None:
    port.send_message(encode((Atom("M"), (Atom("$cancel"), call_id))))


def begin(port: PortProcess, function: str, *arguments: Any) -> int:
    return port.send_call("application", function, arguments)


def threads(port: PortProcess) -> dict[str, int]:
    counts = port.done("metrics")["threads"]
    assert isinstance(counts, dict)
    return counts


def eventually(condition: Callable[[], bool], within_s: float = LONG_S) -> None:
    ends_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def react(server: ModelServer, tool: str, **options: Any) -> list[Any]:
    """Return the arguments of ``execute_module`` for a ReAct whose model calls a tool once."""
    call = {"next_thought": "-", "next_tool_name": tool, "next_tool_args": {"question": "x"}}
    finish = {"next_thought": "-", "next_tool_name": "finish", "next_tool_args": {}}
    replies = [{"fields": fields} for fields in (call, finish, {"reasoning": "-", "answer": "done"})]
    script = f"{tool}{next(_numbers)}"
    server.script(script, *replies)
    return ["dspy.ReAct", QA, "x", {"lm": provider(server, f"scripted:{script}"), "tools": [tool], **options}]


def provider(server: ModelServer, model: str) -> dict[str, Any]:
    return {"provider": "openai", "model": model, "api_base": f"{server.url}/v1", "num_retries": 0}


def refused(port: PortProcess, server: ModelServer) -> bool:
    """Return whether a call whose tool needs a thread is refused, instead of waiting for one."""
    details = port.failed("execute_module", *react(server, "loops", timeout=2_000))
    assert details["kind"] in ("timeout", "overloaded")
    return bool(details["kind"] == "overloaded")


def test_loops_that_are_cancelled_end_and_leave_no_threads(port: PortProcess) -> None:
    port.call("application", "threads")
    for number in range(100):
        call_id = begin(port, "loop")
        if number % 2:
            eventually(lambda: threads(port)["busy"] > 0)
        cancel(port, call_id)
        tag, answered, reason = port.receive()
        assert (tag, answered, reason[2]) == ("e", call_id, "the call was cancelled")
    eventually(lambda: threads(port)["busy"] == 0)
    assert threads(port)["stuck"] == 0
    assert port.call("application", "threads")[2] < 20


def test_endless_loop_in_the_leader_thread_ends_too(port: PortProcess) -> None:
    """A quick function runs in the leader thread; the interrupt must not hit the code that reads."""
    for _ in range(20):
        for _ in range(10):
            assert port.call("application", "loop", 7, False)[2] == 7
        call_id = begin(port, "loop")
        assert port.call("application", "count", 3)[2] == 3
        cancel(port, call_id)
        assert port.receive()[1] == call_id
        assert port.call("application", "count", 3)[2] == 3
    eventually(lambda: port.call("application", "threads")[2] < 20)
    assert threads(port)["stuck"] == 0


def test_every_call_has_one_right_answer_whenever_others_are_cancelled(port: PortProcess) -> None:
    chosen = random.Random(5)  # noqa: S311 - a test that can be repeated
    limits: dict[int, int] = {}
    cancelled = set()
    answered = 0
    for _ in range(3_000):
        limit = chosen.choice([3, 300, 30_000])
        limits[begin(port, "count", limit)] = limit
        if chosen.random() < 0.5:
            some = chosen.choice(list(limits))
            cancelled.add(some)
            cancel(port, some)
        while len(limits) > 12:
            tag, call_id, result = port.receive()
            if tag == "r":
                assert result == limits[call_id]
                answered += 1
            else:
                assert call_id in cancelled
                assert result[2] == "the call was cancelled"
            # Raises KeyError for a second answer of the same call.
            del limits[call_id]
    while limits:
        del limits[port.receive()[1]]
    assert port.call("application", "count", 3)[2] == 3
    assert answered > 1_000
    eventually(lambda: threads(port) == {**threads(port), "busy": 0, "queued": 0, "stuck": 0})


def test_answer_that_comes_after_the_cancelling_is_dropped(port: PortProcess) -> None:
    call_id = begin(port, "block")
    cancel(port, call_id)
    assert port.receive()[1] == call_id
    port.call("application", "release")
    eventually(lambda: threads(port)["busy"] == 0)
    assert port.done("ping", 1)["payload"] == 1


def test_tool_in_a_loop_ends_at_the_deadline_of_its_call(port: PortProcess, model_server: ModelServer) -> None:
    for _ in range(3):
        details = port.failed("execute_module", *react(model_server, "loops", timeout=2_000))
        assert (details["kind"], details["stage"]) == ("timeout", "tool")
        eventually(lambda: threads(port)["busy"] == 0)
    assert threads(port) == {"busy": 0, "queued": 0, "stuck": 0, "interrupted": 3}


def test_tool_in_a_loop_ends_when_its_request_is_cancelled(port: PortProcess, model_server: ModelServer) -> None:
    call_id = port.send_call("dspy_bridge", "execute_module", react(model_server, "loops", request_id="r-1"))
    # The answers of `metrics` come before the answer of the call.
    eventually(lambda: threads(port)["busy"] == 1)
    asked = port.send_call("dspy_bridge", "cancel", ["r-1"])
    answers = {message[1]: message[2] for message in (port.receive(), port.receive())}
    assert answers[asked] == ("ok", 1)
    assert answers[call_id][1][1]["kind"] == "cancelled"
    eventually(lambda: threads(port)["busy"] == 0)


@NEEDS_PROC
def test_program_of_thought_leaves_neither_a_thread_nor_a_sandbox(port: PortProcess, model_server: ModelServer) -> None:
    fields = {"reasoning": "-", "generated_code": "while True: pass"}
    model_server.script("endless", *[{"fields": fields}] * 3)
    before = port.call("application", "children")[2]
    options = {"lm": provider(model_server, "scripted:endless"), "timeout": 6_000}
    details = port.failed("execute_module", "dspy.ProgramOfThought", QA, "x", options)
    assert (details["kind"], details["stage"]) == ("timeout", "sandbox")
    eventually(lambda: threads(port)["busy"] == 0)
    # A sandbox that was still starting for the call ends in a thread of its own. On a busy machine a start takes long.
    eventually(lambda: bool(port.call("application", "children")[2] == before), within_s=180)


def test_module_in_a_thread_closes_its_request_to_the_model(port: PortProcess, model_server: ModelServer) -> None:
    """The module once waited for the model's answer in its thread, up to the timeout of the model itself."""
    begun = len(model_server.requests)

    def attempt(timeout_ms: int) -> Any:
        options = {"lm": provider(model_server, "delay-120000"), "timeout": timeout_ms}
        return port.failed("execute_module", "dspy.ProgramOfThought", QA, "x", options)

    details = at_deadline(1_000, attempt, lambda _: len(model_server.requests) > begun)
    assert (details["kind"], details["stage"]) == ("timeout", "model")
    (request,) = model_server.requests[begun:]
    assert request.done.wait(timeout=LONG_S)
    assert request.disconnected
    eventually(lambda: threads(port)["busy"] == 0)
    assert threads(port)["stuck"] == 0


def test_call_that_waits_for_a_thread_is_answered_by_its_deadline_in_stage_queue(
    environment: dict[str, str], model_server: ModelServer
) -> None:
    with started(environment, "--max-threads=1") as port:
        slow = begin(port, "block")
        details = at_deadline(
            300,
            lambda timeout_ms: port.failed("execute_module", *react(model_server, "blocks", timeout=timeout_ms)),
            lambda details: details["stage"] == "queue",
        )
        assert details["kind"] == "timeout"
        assert 'the time ran out in stage "queue"' in details["message"]
        released = begin(port, "release")
        assert {port.receive()[1], port.receive()[1]} == {slow, released}


def test_call_past_the_limit_of_the_queue_is_refused_at_once(environment: dict[str, str]) -> None:
    with started(environment, "--max-threads=1", "--max-queued=1") as port:
        # Until a module is imported, its functions are looked up in the same thread.
        port.call("application", "threads")
        ids = [begin(port, "block") for _ in range(3)]
        tag, refused, reason = port.receive()
        # Not always the last call: calls that come together may ask for the thread in any order.
        ids.remove(refused)
        assert tag == "e"
        assert reason[2] == "all threads are busy (1), and as much waits for one as may (1)"
        for call_id in ids:
            cancel(port, call_id)
            assert port.receive()[1] == call_id


def test_calls_that_need_a_thread_are_refused_at_once_when_all_are_stuck(
    environment: dict[str, str], model_server: ModelServer
) -> None:
    """Under ErlPort's Erlang half, no other process is started, so calls must be refused."""
    with started(environment, "--max-threads=1", "--max-stuck=1", "--lost-after=1500") as port:
        port.call("application", "release", 0)
        for number in (1, 2):
            options = react(model_server, "blocks", timeout=2_000, request_id="r-9")
            details = port.failed("execute_module", *options)
            assert (details["kind"], details["stage"]) == ("timeout", "tool")
            eventually(lambda number=number: threads(port)["stuck"] == number)  # type: ignore[misc]
        # Until both are lost, work waits for a thread.
        eventually(lambda: refused(port, model_server))
        sentence = "all threads are stuck in work that does not end: 2; start python anew"
        assert port.call("application", "block")[2][2].startswith(sentence)
        details = port.failed("execute_module", *react(model_server, "loops", timeout=5_000))
        assert (details["kind"], details["stage"], details["retryable"]) == ("overloaded", "queue", True)
        assert details["message"].startswith(sentence)
        # Calls that need no thread still work, and all other calls do as soon as the stuck work ends.
        assert port.done("list_sessions") == []
        port.call("application", "release", 2)
        eventually(lambda: threads(port)["stuck"] == 0)
        assert port.call("application", "count", 3)[2] == 3
        port.close()
        text = port.stderr_text()
        assert text.count("a thread is stuck: application.blocks for request 'r-9' goes on") == 2
        assert "now in block (" in text


def test_port_that_recycles_is_asked_once_for_another_process_and_refuses_no_call(
    environment: dict[str, str], model_server: ModelServer
) -> None:
    flags = ("--max-threads=2", "--max-stuck=0", "--lost-after=5000", "--ask-for-recycling")
    with started(environment, *flags) as port:
        for _ in range(2):
            port.failed("execute_module", *react(model_server, "blocks", timeout=2_000))
        # Not before the first of them is lost; the other may be by then.
        tag, cause, reason = port.receive()
        assert (tag, cause) == ("R", "threads")
        assert reason.endswith(" of its threads are stuck for more than 5 s, and none is free")
        assert threads(port)["stuck"] == 2
        waiting = begin(port, "count", 3)
        releasing = begin(port, "release", 2)
        assert {port.receive()[1], port.receive()[1]} == {waiting, releasing}
        eventually(lambda: threads(port) == {"busy": 0, "queued": 0, "stuck": 0, "interrupted": 2})
