"""The calls that run are listed with their age and stage."""

from __future__ import annotations

import time

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess


def test_running_calls_are_listed_with_their_stage_until_they_end(port: PortProcess, model_server: ModelServer) -> None:
    before_ms = time.time() * 1000
    opts = {"lm": openai(model_server, "delay-60000"), "request_id": "r-1", "caller": "acme"}
    call_id = port.send_call("dspy_bridge", "execute_module", ["dspy.Predict", "question -> answer", "Why?", opts])
    model_server.wait_for_requests(1)
    (call,) = port.done("running_calls")
    assert call["age_ms"] > 0
    assert before_ms <= call["at_ms"] <= call["at_ms"] + call["age_ms"] <= time.time() * 1000 + 1
    assert call == {
        "operation": "execute_module",
        "request_id": "r-1",
        "caller": "acme",
        "stage": "model",
        "at_ms": call["at_ms"],
        "age_ms": call["age_ms"],
    }
    cancel_id = port.send_call("dspy_bridge", "cancel", ["r-1"])
    assert {port.receive()[1], port.receive()[1]} == {call_id, cancel_id}
    assert port.done("running_calls") == []
    assert port.failed("running_calls", {"n": 0})["path"] == "opts.n"
