"""Measure how late a deadline of other calls can be while one call runs: how long the event loop does not look at it.

The functions at the end run in the port: a timer on its event loop fires every millisecond, and the longest time
between two of them is kept. A blocked loop makes this time long, and so does a thread that keeps the GIL.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from erlport_bridge.term import Atom
from tests.port_process import PortProcess

_EVERY_S = 0.001
_MODEL_SERVER = Path(__file__).parent / "model_server"


class Lateness(NamedTuple):
    """What a call did to the timers of its port.

    Attributes:
        worst_ms: The longest time between two timers.
        worst_cpu_ms: The most CPU time of the port between two timers; unlike ``worst_ms``, it does not depend on what
            else the machine computes.
        taken_s: How long the call took.
        answer: The answer to the call: ``{:ok, term}`` or ``{:error, …}``.
    """

    worst_ms: float
    worst_cpu_ms: float
    taken_s: float
    answer: Any


class WatchedPort:
    """A port whose timers are watched, with a model server in a process of its own.

    Attributes:
        port: The port; its default model is the embedded one.
    """

    def __init__(self) -> None:
        # The port calls functions of this module.
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self.port = PortProcess(environment={"PYTHONPATH": path})
        self._models = subprocess.Popen(
            [sys.executable, str(_MODEL_SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._url = self._read()
        self._count = 0
        self.port.done("configure_lm", Atom("embedded"), {})
        # What is imported or built once is no part of a measurement.
        for adapter in ("chat", "json", "xml"):
            opts = {"adapter": adapter, "lm": self.model({"fields": {"answer": "x"}})}
            self.port.operate("execute_module", "dspy.Predict", _QUESTION, _INPUTS, opts)
        self.port.call(__name__, "watch")

    def __enter__(self) -> WatchedPort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._models.kill()
        self._models.communicate()
        self.port.__exit__(kind, error, traceback)

    def model(self, *replies: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a model that gives these replies of :mod:`tests.model_server`, one to each request."""
        self._count += 1
        assert self._models.stdin is not None
        self._models.stdin.write(json.dumps({"name": f"script{self._count}", "replies": replies}) + "\n")
        self._models.stdin.flush()
        assert self._read() == "ok"
        return {
            "provider": "openai",
            "model": f"scripted:script{self._count}",
            "api_key": "key-of-the-test",
            "api_base": f"{self._url}/v1",
            "num_retries": 0,
        }

    def during(self, operation: str, *arguments: Any) -> Lateness:
        """Run an operation; return how late timers were meanwhile."""
        self.port.call(__name__, "worst")
        started_at = time.monotonic()
        answer = self.port.operate(operation, *arguments)
        taken_s = time.monotonic() - started_at
        worst_ms, worst_cpu_ms = self.port.call(__name__, "worst")[2]
        return Lateness(worst_ms, worst_cpu_ms, taken_s, answer)

    def _read(self) -> str:
        assert self._models.stdout is not None
        return self._models.stdout.readline().strip()


# Calls that bring much ---------------------------------------------------------------------------------------------

_MB = 1_000_000
_QUESTION = "question -> answer"
_INPUTS = {"question": "x"}
_LIST = "question -> items: list[int]"
_ANSWERED = "[[ ## answer ## ]]\nx\n\n[[ ## completed ## ]]"

#: An operation and its arguments.
Call: TypeAlias = tuple[Any, ...]


def _prose(size: int) -> str:
    sentence = "the quick brown fox jumps over the lazy dog. "
    return sentence * (size // len(sentence))


def _replied(text: str, *, adapter: str = "chat", signature: str = _QUESTION) -> Callable[[WatchedPort], Call]:
    """Return a prediction whose model gives this answer, also when it is asked again."""

    def call(port: WatchedPort) -> Call:
        opts = {"lm": port.model(*[{"content": text}] * 3), "adapter": adapter, "timeout": 5_000}
        return "execute_module", "dspy.Predict", signature, _INPUTS, opts

    return call


def _given(inputs: Mapping[str, Any], signature: str = _QUESTION, **opts: Any) -> Callable[[WatchedPort], Call]:
    """Return a prediction with these inputs and options, and a short answer."""

    def call(port: WatchedPort) -> Call:
        lm = port.model({"content": _ANSWERED}, {"content": _ANSWERED})
        return "execute_module", "dspy.Predict", signature, inputs, {"lm": lm, **opts}

    return call


def _scored(metric: str) -> Callable[[WatchedPort], Call]:
    """Return an evaluation that compares long texts."""

    def call(port: WatchedPort) -> Call:
        program = port.port.done("create_program", {"signature": _QUESTION, "modules": ["dspy.Predict"]})
        lm = port.model({"content": f"[[ ## answer ## ]]\n{_prose(_MB)}"})
        example = {"question": "x", "answer": _prose(_MB) + "y"}
        return "evaluate_program", program["session_id"], program["id"], [example], {"metric": metric, "lm": lm}

    return call


# Nearly 4 MB of small maps, which is as much as a conversation keeps.
_TURNS = [{"question": [{"a": number} for number in range(2_500)], "answer": "x"} for _ in range(40)]


def _with_conversation(operation: str, *arguments: Any) -> Callable[[WatchedPort], Call]:
    """Return an operation on a program and its large conversation."""

    def call(port: WatchedPort) -> Call:
        spec = {"signature": "question: Any -> answer", "modules": ["dspy.Predict"], "history": True}
        program = port.port.done("create_program", spec)
        named = (program["session_id"], program["id"])
        seeded = port.port.done("seed_conversation", *named, "user", _TURNS)
        assert seeded["turn_count"] == len(_TURNS)
        if operation != "execute_program":
            return operation, *named, "user", *arguments
        lm = port.model({"content": _ANSWERED})
        return operation, *named, {"question": "x"}, {"conversation": "user", "lm": lm}

    return call


#: What a call may bring or find, by the words for it.
CALLS: Mapping[str, Callable[[WatchedPort], Call]] = {
    "a reply of 1 MB in braces that is no JSON": _replied("{" + _prose(_MB) + "}", adapter="json"),
    "a reply of 60 kB of unquoted pairs": _replied(
        "{" + ", ".join(f"k{number}: v {number}" for number in range(4_000)) + "}", adapter="json"
    ),
    "a reply of 5 MB of prose": _replied(_prose(5 * _MB)),
    "a list of 1 MB that is no JSON": _replied(f"[[ ## items ## ]]\n[{_prose(_MB)}]", signature=_LIST),
    "a list of 1 MB that is cut off": _replied("[[ ## items ## ]]\n[" + "1, " * (_MB // 3), signature=_LIST),
    "1 MB of opening brackets": _replied("[" * _MB, adapter="json"),
    "200 brackets before 1 MB of numbers": _replied("[" * 200 + "1, " * (_MB // 3), adapter="json"),
    "1 MB of field markers in one line": _replied("**[[ ## answer ## ]]** " * (_MB // 23)),
    "100 kB of spaces behind a code fence": _replied("[[ ## items ## ]]\n```" + " " * 100_000 + "x", signature=_LIST),
    "400 kB of start tags": _replied("<answer>" * 50_000, adapter="xml"),
    "an answer of 100,000 numbers": _replied(
        '{"items": [' + ", ".join(map(str, range(100_000))) + "]}", adapter="json", signature=_LIST
    ),
    "an answer of 10,000 objects": _replied(
        '{"items": [' + ", ".join(f'{{"name": "a", "age": {age}}}' for age in range(10_000)) + "]}",
        adapter="json",
        signature="question -> items: list[{name: str, age: int}]",
    ),
    "an input of 5 MB": _given({"question": _prose(5 * _MB)}),
    "an input of 5 MB for the embedded model": lambda _: (
        *("execute_module", "dspy.Predict", _QUESTION, {"question": _prose(5 * _MB)}),
    ),
    "an input of 100,000 numbers": _given({"numbers": list(range(100_000))}, "numbers: list[int] -> answer"),
    "an input of 50,000 spaces behind <": _given({"question": "<" + " " * 50_000}, adapter="xml"),
    "an input of 10,000 turns": _given(
        {"question": "x", "history": [{"question": "q", "answer": "a"}] * 10_000},
        "history: History, question -> answer",
    ),
    "10,000 examples in the prompt": _given(_INPUTS, demos=[{"question": "q", "answer": "a"}] * 10_000),
    "a batch of 20,000 wrong items": lambda _: (
        *("execute_batch", "dspy.Predict", _QUESTION, [{"wrong": 1}] * 20_000),
    ),
    "a batch of 50,000 items without time": lambda port: (
        *("execute_batch", "dspy.Predict", _QUESTION, [_INPUTS] * 50_000),
        {"timeout": 200, "lm": port.model({"content": _ANSWERED, "delay_ms": 1_000})},
    ),
    "100,000 unknown inputs": lambda _: (
        *("execute_module", "dspy.Predict", _QUESTION, {f"input{number}": 1 for number in range(100_000)}),
    ),
    "5 MB of arguments as JSON": lambda _: (
        *("handle_json", "execute_module"),
        json.dumps(["dspy.Predict", _QUESTION, {"question": _prose(5 * _MB)}]),
    ),
    "texts of 1 MB compared by f1": _scored("f1"),
    "a call of a conversation of 4 MB": _with_conversation("execute_program"),
    "4 MB of turns that are given in": _with_conversation("seed_conversation", _TURNS),
    "4 MB of turns that are read": _with_conversation("conversation"),
}


# In the port -------------------------------------------------------------------------------------------------------

_worst = [0.0, 0.0]
_tasks: list[asyncio.Task[None]] = []


async def watch() -> None:
    """Start the timers."""
    _tasks.append(asyncio.ensure_future(_tick()))


async def worst() -> list[float]:
    """Return the longest time and the most CPU time between two timers since the last call, in milliseconds."""
    await asyncio.sleep(2 * _EVERY_S)
    found = [seconds * 1_000 for seconds in _worst]
    _worst[:] = [0.0, 0.0]
    return found


async def _tick() -> None:
    last = _now()
    while True:
        await asyncio.sleep(_EVERY_S)
        now = _now()
        _worst[:] = [max(kept, new - old) for kept, new, old in zip(_worst, now, last, strict=True)]
        last = now


def _now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()
