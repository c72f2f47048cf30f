"""A predictor's own model is asked wherever the predictor is copied, and in each attempt as another request."""

from __future__ import annotations

import contextlib
from typing import Any

import dspy
import pytest

from erlport_bridge.programs.models import OwnModels, from_option, own_models
from tests.model_server import ModelServer, openai


class Attempts(dspy.Module):  # type: ignore[misc]
    """A module of an application that runs DSPy's own ``BestOfN``, which sets the model of copied predictors."""

    def __init__(self) -> None:
        super().__init__()
        self.best = dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=lambda *_: 0.0, threshold=1.0)

    def forward(self, **inputs: Any) -> Any:
        """Run the attempts."""
        return self.best(**inputs)


def running(usual: Any) -> contextlib.AbstractContextManager[None]:
    context: contextlib.AbstractContextManager[None] = dspy.context(lm=usual, adapter=dspy.ChatAdapter(), trace=[])
    return context


def model(server: ModelServer, name: str, **settings: Any) -> Any:
    return from_option({**openai(server, name), "cache": True, **settings}).lm


@pytest.mark.parametrize("deep", [False, True])
def test_attempts_of_dspy_itself_differ(model_server: ModelServer, deep: bool) -> None:
    usual, own = model(model_server, "usual"), model(model_server, "own", temperature=0.1)
    module = Attempts().deepcopy() if deep else Attempts()
    (name,) = [name for name, _ in module.named_predictors()]
    with running(usual), dspy.context(**OwnModels(usual, {f"x.{name}": own}).settings("x", module)):
        module(question=f"attempts {deep}")
    found = [(request.model, request.body["temperature"]) for request in model_server.requests]
    assert found == [("own", 1.0)] * 2


def test_a_model_that_the_caller_of_a_predictor_names_goes_first(model_server: ModelServer) -> None:
    usual, own, named = (model(model_server, name) for name in ("usual", "own", "named"))
    module = dspy.ChainOfThought("question -> answer")
    with running(usual):
        with dspy.context(**OwnModels(usual, {"x.predict": own}).settings("x", module)):
            module(question="first", lm=named)
            assert own_models.model_of(module.predict) is own
            module(question="first")
        module(question="first")
    assert [request.model for request in model_server.requests] == ["named", "own", "usual"]


def test_a_rollout_that_a_caller_has_set_for_the_whole_run_stays_there(model_server: ModelServer) -> None:
    usual, own = model(model_server, "usual", temperature=0.9).copy(rollout_id=3), model(model_server, "own")
    module = dspy.ChainOfThought("question -> answer")
    with running(usual), dspy.context(**OwnModels(usual, {"x.predict": own}).settings("x", module)):
        assert own_models.model_of(module.predict) is own
