"""Choose the model that a predictor asks: that of its run, or one that its stage or the predictor has of its own.

DSPy gives a context one model. What a predictor asks beside that is in the context too, so that modules which are
shared by calls hold no model. Where a predictor is run again for another answer, as ``dspy.BestOfN`` and optimizers do
with copies of the context's model, its own model has the same rollout and temperature.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import dspy

from erlport_bridge import dspy_patches

#: The setting of DSPy's context that has a run's :class:`OwnModels`.
OWN_MODELS: Final = "own_models"
# The setting of DSPy's context that has the models of single predictors of the stage that runs.
_PREDICTOR_MODELS: Final = "predictor_models"
#: The settings of a run in which every predictor asks the model of the run.
NO_OWN_MODELS: Final[Mapping[str, Any]] = {OWN_MODELS: None, _PREDICTOR_MODELS: None}

# What DSPy takes out of the inputs of a predictor.
_SETTINGS: Final = frozenset({"new_signature", "signature", "demos", "config", "lm", "prediction"})

# What distinguishes an attempt: the settings that change from one to the next.
_Attempt = tuple[Any, Any]


class OwnModels(NamedTuple):
    """The models of a run besides the one that is asked otherwise.

    Attributes:
        usual: The model that is asked otherwise; ``None``: there is none.
        named: The models of stages, by their names, and of predictors, as ``stage.predictor``.
    """

    usual: dspy.LM | None
    named: Mapping[str, dspy.LM]

    def settings(self, stage: str, module: dspy.Module) -> dict[str, Any]:
        """Return the settings of DSPy with which ``module`` runs, that of the stage with this name."""
        own, asked = self.named.get(stage), dspy.settings.lm
        settings: dict[str, Any] = {} if own is None else {"lm": _in_attempt(own, asked, self.usual)}
        if any(name.startswith(f"{stage}.") for name in self.named):
            predictors = module.named_predictors()
            named = {one.stage: self.named[key] for name, one in predictors if (key := f"{stage}.{name}") in self.named}
            usual = own or self.usual or next(iter(named.values()))
            settings[_PREDICTOR_MODELS] = _PredictorModels(usual, named)
            if own is None and asked is None:
                # No other predictor asks it: modules read its settings, and copy it for further attempts.
                settings["lm"] = usual
        return settings


class _PredictorModels(NamedTuple):
    """The models of predictors by their ids, and the model that the stage asks otherwise."""

    usual: dspy.LM
    named: Mapping[str, dspy.LM]


def current() -> OwnModels | None:
    """Return the models that the run's stages and predictors have of their own."""
    found: OwnModels | None = dspy.settings.get(OWN_MODELS)
    return found


def model_of(predictor: dspy.Predict) -> dspy.LM:
    """Return the model that a predictor asks in DSPy's context."""
    return _own_model(predictor) or predictor.lm or dspy.settings.lm


def asking_own_model(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement for ``Predict._forward_preprocess`` that asks the predictor's own model, if it has one."""

    @functools.wraps(preprocess)
    def preprocess_with_model(self: dspy.Predict, **kwargs: Any) -> Any:
        own = None if "lm" in kwargs else _own_model(self)
        signature = self.signature
        # What is left of DSPy's work for exactly the inputs of the signature, which have been checked already.
        if kwargs.keys() == signature.input_fields.keys() and not (
            kwargs.keys() & _SETTINGS or dspy.settings.warn_on_type_mismatch
        ):
            lm = own or self.lm or dspy.settings.lm
            config = {**self.config}
            if isinstance(lm, dspy.BaseLM) and _asks_once(config, lm.kwargs):
                return lm, config, signature, self.demos, kwargs
        if own is not None:
            kwargs["lm"] = own
        return preprocess(self, **kwargs)

    return preprocess_with_model


def _asks_once(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Return whether one answer is asked for; DSPy chooses the temperature for several."""
    return (config.get("n") or defaults.get("n") or defaults.get("num_generations") or 1) == 1


def _own_model(predictor: dspy.Predict) -> dspy.LM | None:
    models: _PredictorModels | None = dspy.settings.get(_PREDICTOR_MODELS)
    # Copies of a predictor keep its id.
    own = None if models is None else models.named.get(predictor.stage)
    if own is None or models is None:
        return None
    return _in_attempt(own, predictor.lm or dspy.settings.lm, models.usual)


def _in_attempt(own: dspy.LM, asked: dspy.LM | None, usual: dspy.LM | None) -> dspy.LM:
    """Return the model for the attempt in which ``asked`` would be asked, a copy of ``usual``."""
    if asked is None or asked is usual:
        return own
    rollout, temperature = attempt = _attempt_of(asked)
    if rollout is None or (usual is not None and attempt == _attempt_of(usual)):
        return own
    return own.copy(rollout_id=rollout, temperature=temperature)


def _attempt_of(lm: dspy.LM) -> _Attempt:
    return lm.kwargs.get("rollout_id"), lm.kwargs.get("temperature")


dspy_patches.provide("predictor_models", asking_own_model)
