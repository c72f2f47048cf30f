"""The setting ``rollout_id`` of a call: other answers from the cache, and nothing for the provider."""

from __future__ import annotations

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"


def test_calls_of_another_rollout_share_no_cached_answer(port: PortProcess, model_server: ModelServer) -> None:
    for rollout_id in (1, 1, 2, None, None):
        options = {
            "lm": {**openai(model_server, "answer"), "cache": True},
            "temperature": 0.7,
            "rollout_id": rollout_id,
        }
        prediction = port.done("execute_module", "dspy.Predict", QA, {"question": "x"}, options)
        assert prediction["$meta"]["warnings"] == []
    assert len(model_server.requests) == 3
    assert all("rollout" not in str(request.body) for request in model_server.requests)


@pytest.mark.parametrize("lm", ["embedded", None])
def test_every_model_takes_it(port: PortProcess, lm: str | None) -> None:
    port.done("configure_lm", "embedded", {"rollout_id": 3} if lm is None else {})
    options = {"rollout_id": 7} | ({} if lm is None else {"lm": lm})
    assert port.done("execute_module", "dspy.Predict", QA, {"question": "x"}, options)["answer"]
    assert port.failed("execute_module", "dspy.Predict", QA, {"question": "x"}, {"rollout_id": "7"})["kind"] == "input"
