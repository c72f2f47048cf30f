"""A predictor's own model is asked wherever the predictor is copied, and in each attempt as another request."""

from __future__ import annotations

import contextlib
from typing import Any

import dspy
import pytest

from erlport_bridge.dspy_patches.installing import seam
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


prepared_by_dspy = seam.originals["predictor_models"]["dspy.predict.predict:Predict._forward_preprocess"]


@pytest.mark.parametrize("warns", [True, False])
@pytest.mark.parametrize("defaults", [{}, {"n": 2}, {"num_generations": 2}, {"n": 2, "temperature": 0.9}], ids=str)
@pytest.mark.parametrize("config", [{}, {"n": 1}, {"n": 3}, {"n": True}, {"temperature": 0.5, "n": 2}], ids=str)
@pytest.mark.parametrize(
    "given",
    [
        {"question": "Why?", "level": 1},
        {"level": 1, "question": 7},
        {"question": "Why?"},
        {"question": "Why?", "level": 1, "more": 2},
        {"question": "Why?", "level": 1, "config": {"temperature": 0.1}},
        {"question": "Why?", "level": 1, "demos": []},
        {"question": "Why?", "level": 1, "lm": dspy.utils.DummyLM([])},
        {"question": "Why?", "prediction": {"type": "content", "content": "x"}},
        {},
    ],
    ids=["all", "other order", "default", "more", "config", "demos", "model", "prediction", "none"],
)
def test_a_request_is_prepared_as_by_dspy(
    given: dict[str, Any], config: dict[str, Any], defaults: dict[str, Any], warns: bool, caplog: Any
) -> None:
    fields = {
        "question": (str, dspy.InputField()),
        "level": (int, dspy.InputField(default=3)),
        "answer": (str, dspy.OutputField()),
    }
    predictor = dspy.Predict(dspy.Signature(fields), **config)
    lm = dspy.LM("openai/m", api_key="k", **defaults)
    found = []
    with dspy.context(lm=lm, warn_on_type_mismatch=warns), caplog.at_level("WARNING"):
        for prepare in (prepared_by_dspy, dspy.Predict._forward_preprocess):
            caplog.clear()
            prepared = prepare(predictor, **given)
            found.append((prepared, [record.getMessage() for record in caplog.records]))
            # A copy, which the adapter changes.
            assert prepared[1] is not predictor.config
    assert found[0] == found[1]


def test_a_field_may_have_the_name_of_a_setting() -> None:
    predictor = dspy.Predict("config, demos -> answer")
    with dspy.context(lm=dspy.utils.DummyLM([]), warn_on_type_mismatch=False):
        prepared = dspy.Predict._forward_preprocess(predictor, config={"temperature": 0.5}, demos=[])
        assert prepared == prepared_by_dspy(predictor, config={"temperature": 0.5}, demos=[])


def test_a_request_without_a_model_is_an_error_of_dspy() -> None:
    with dspy.context(lm=None, warn_on_type_mismatch=False), pytest.raises(ValueError, match="No LM is loaded"):
        dspy.Predict._forward_preprocess(dspy.Predict("question -> answer"), question="Why?")
