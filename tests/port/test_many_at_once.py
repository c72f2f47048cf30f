"""Test hundreds of calls on one port at the same time: all run, each gets its own answer, and deadlines are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.port_process import PortProcess

QA = "question -> answer"
PREDICTIONS = 256
WAITS = 500
BUSY = 200

APPLICATION = f"""
import asyncio, time

from dspy import lm15
from erlport_bridge.programs.models.embedded import engine as embedded

class Engine:
    "Answers with the question, after what `wait` waits for."

    def __init__(self, wait):
        self._wait = wait

    async def complete(self, request):
        await self._wait()
        question = request.messages[-1].text.partition("[[ ## question ## ]]")[2].partition("[[")[0].split()[0]
        text = f"[[ ## answer ## ]]\\nanswer to {{question}}\\n\\n[[ ## completed ## ]]"
        usage = lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        message = lm15.Message.assistant([lm15.TextPart(text)])
        return lm15.Response(id=None, model=request.model, finish_reason="stop", message=message, usage=usage)

class Meeting:
    "Waits until so many are here."

    def __init__(self, count):
        self._missing = count
        self._all_here = asyncio.Event()

    async def wait(self):
        self._missing -= 1
        if self._missing == 0:
            self._all_here.set()
        await self._all_here.wait()

async def computes():
    "Keeps the event loop busy."
    time.sleep(0.005)

original = embedded.embedded_model()
meeting = Meeting({WAITS})

def use(engine):
    model = original.copy(engine=original.engine, async_engine=engine)
    embedded.embedded_model = lambda: model

async def answer_when_all_have_asked():
    use(Engine(Meeting({PREDICTIONS}).wait))

async def answer_after_computing():
    use(Engine(computes))

async def meet():
    await meeting.wait()
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortProcess]:
    """Yield a port with models and functions of an application."""
    folder: Path = tmp_path_factory.mktemp("application")
    (folder / "application.py").write_text(APPLICATION)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with PortProcess(environment={"PYTHONPATH": path}) as started:
        yield started


def use(port: PortProcess, model: str) -> None:
    tag, _, _ = port.call("application", model)
    assert tag == "r"
    port.done("configure_lm", "embedded", {})


def predict(port: PortProcess, question: str, **options: object) -> int:
    return port.send_call("dspy_bridge", "execute_module", ["dspy.Predict", QA, question, options])


def test_256_predictions_at_once_ask_at_once_and_each_has_its_own_answer(port: PortProcess) -> None:
    """The model answers the first request only when the last one has come."""
    use(port, "answer_when_all_have_asked")
    asked = {predict(port, f"question-{number}"): f"question-{number}" for number in range(PREDICTIONS)}
    for _ in range(PREDICTIONS):
        _, call_id, (status, prediction) = port.receive()
        assert status == "ok", prediction
        assert prediction["answer"] == f"answer to {asked.pop(call_id)}"
    assert not asked


def test_500_calls_wait_at_once(port: PortProcess) -> None:
    """Each call ends only when all have begun."""
    calls = {port.send_call("application", "meet", []) for _ in range(WAITS)}
    for _ in range(WAITS):
        tag, call_id, _ = port.receive()
        assert tag == "r"
        calls.remove(call_id)
    assert not calls


def test_a_deadline_is_kept_while_many_predictions_keep_the_loop_busy(port: PortProcess) -> None:
    """The loop once ran all received predictions before it looked at its timers, so a deadline waited for the last.

    The predictions take at least a second in total, so that most of them have not started at the deadline.
    """
    use(port, "answer_after_computing")
    busy = {predict(port, "busy") for _ in range(BUSY)}
    late = predict(port, "late", timeout=200)
    answered = []
    for _ in range(BUSY + 1):
        _, call_id, (status, answer) = port.receive()
        answered.append(call_id)
        if call_id == late:
            assert (status, answer[1]["kind"], answer[1]["stage"]) == ("error", "timeout", "queue")
    assert set(answered) == busy | {late}
    assert answered.index(late) < BUSY / 2
