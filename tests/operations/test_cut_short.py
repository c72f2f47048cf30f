"""Cut calls short at random places, on a busy machine, and check that later calls are answered as ever.

Deadlines and budgets end programs, evaluations and optimizers in whatever they do then: libraries that hold a lock,
threads that are being started. What is left behind shows only in a later call that hangs.
"""

from __future__ import annotations

import random
import time
from typing import Any, Final

import pytest

from tests.model_server import ModelServer
from tests.model_server.server import openai
from tests.port_process import PortProcess

QA: Final = "question -> answer"
EXAMPLES: Final = [{"question": f"q{number}", "answer": "never"} for number in range(6)]
METRIC: Final = {"check": "equals", "field": "answer", "input": "answer"}
SMALL: Final[dict[str, dict[str, Any]]] = {
    "dspy.COPRO": {"breadth": 2, "depth": 2},
    "dspy.GEPA": {"max_metric_calls": 20},
    "dspy.MIPROv2": {"auto": "light"},
    "dspy.SIMBA": {"bsize": 3, "num_candidates": 2, "max_steps": 2},
}
# These need more than examples and a metric, or make a program that no optimizer takes.
LEFT_OUT: Final = {"dspy.KNNFewShot", "dspy.Ensemble"}
SECONDS: Final = 60


class Calls:
    """Random calls of one port, from a seed."""

    def __init__(self, seed: int, port: PortProcess, lm: dict[str, Any]) -> None:
        self.random = random.Random(seed)  # noqa: S311 - it chooses calls
        self.port = port
        self.lm = lm
        self.optimizers = sorted(set(map(str, port.done("list_optimizers"))) - LEFT_OUT)
        specs: list[dict[str, Any]] = [
            {"signature": QA},
            {"modules": [{"module": "dspy.ChainOfThought", "signature": QA}]},
            {"modules": [{"module": "dspy.ReAct", "signature": QA, "tools": []}]},
        ]
        self.programs = [port.done("create_program", spec, {"session_id": "s"})["id"] for spec in specs]
        self.waiting: set[int] = set()

    def compilation(self, optimizer: str, **options: Any) -> list[Any]:
        """Return the arguments of ``compile_program``."""
        chosen = {"lm": self.lm, "optimizer": optimizer, "metric": METRIC, **SMALL.get(optimizer, {}), **options}
        return [None, self.programs[self.random.randrange(2)], EXAMPLES, chosen]

    def limits(self) -> dict[str, Any]:
        """Return options that end most calls before they are done."""
        limits: dict[str, Any] = {}
        if self.random.random() < 0.7:
            limits["timeout"] = int(10 ** self.random.uniform(0.5, 3.3))
        if self.random.random() < 0.3:
            limits["max_tokens_total"] = self.random.randint(1, 300)
        return limits

    def send(self) -> None:
        """Send a call that nobody has waited for yet."""
        options: dict[str, Any] = {"lm": self.lm, **self.limits()}
        call: tuple[str, list[Any]]
        kind = self.random.choice(("module", "evaluation", "compilation", "compilation"))
        if kind == "module":
            module = self.random.choice(("dspy.Predict", "dspy.ChainOfThought", "dspy.RLM"))
            call = ("execute_module", [module, QA, {"question": str(self.random.random())}, options])
        elif kind == "evaluation":
            options.update(metric=METRIC, max_concurrency=self.random.randint(1, 4))
            call = ("evaluate_program", [None, self.random.choice(self.programs), EXAMPLES, options])
        else:
            threads = self.random.randint(1, 3)
            optimizer = self.random.choice(self.optimizers)
            call = ("compile_program", self.compilation(optimizer, **self.limits(), num_threads=threads))
        self.waiting.add(self.port.send_call("dspy_bridge", *call))

    def receive(self) -> str:
        """Receive an answer, and return ``ok`` or the kind of its error."""
        tag, call_id, answer = self.port.receive()
        assert tag == "r", answer
        self.waiting.remove(call_id)
        status, result = answer
        return "ok" if status == "ok" else str(result[1]["kind"])


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("busy_machine")
@pytest.mark.parametrize("seed", range(3))
def test_calls_after_those_that_were_cut_short_are_answered(ports: Any, model_server: ModelServer, seed: int) -> None:
    with ports.start() as port:
        calls = Calls(seed, port, openai(model_server, "gpt-4o-mini"))
        outcomes: list[str] = []
        ends_at = time.monotonic() + SECONDS
        while calls.waiting or time.monotonic() < ends_at:
            while time.monotonic() < ends_at and len(calls.waiting) < calls.random.randint(1, 8):
                calls.send()
            outcomes.append(calls.receive())
        assert set(outcomes) <= {"ok", "timeout", "budget", "overloaded", "sandbox"}
        assert outcomes.count("timeout") > 10
        for optimizer in calls.optimizers:
            port.done("compile_program", *calls.compilation(optimizer))
