"""Build the DSPy context of every request, evaluation and compilation."""

from __future__ import annotations

import contextlib
from typing import Any

import dspy
from dspy.dsp.utils import dotdict
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides

from erlport_bridge.programs.models import own_models
from erlport_bridge.request import Assigned


def dspy_context(lm: dspy.LM | None, adapter: dspy.Adapter, **settings: Any) -> contextlib.AbstractContextManager[None]:
    """Return the context in which DSPy calls ``lm`` with the prompts of ``adapter``.

    A request sees neither the trace, the history nor the callbacks of another one. ``settings`` may name callbacks,
    beside those that a module of the application has configured for the whole process, such as MLflow's.
    """
    callbacks = [*main_thread_config["callbacks"], *settings.pop("callbacks", ())]
    # As `dspy.context`, which is a generator and copies all settings once more.
    return Assigned(
        thread_local_overrides,
        dotdict(
            {
                **main_thread_config,
                **thread_local_overrides.get(),
                "lm": lm,
                "adapter": adapter,
                "trace": [],
                "disable_history": True,
                "callbacks": callbacks,
                # The inputs have been checked already.
                "warn_on_type_mismatch": False,
                **own_models.NO_OWN_MODELS,
                **settings,
            }
        ),
    )
