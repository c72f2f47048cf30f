"""Build the DSPy context of every request, evaluation and compilation."""

from __future__ import annotations

import contextlib
from typing import Any

import dspy

from erlport_bridge.programs.models import own_models


def dspy_context(lm: dspy.LM | None, adapter: dspy.Adapter, **settings: Any) -> contextlib.AbstractContextManager[None]:
    """Return the context in which DSPy calls ``lm`` with the prompts of ``adapter``.

    A request sees neither the trace, the history nor the callbacks of another one. ``settings`` may name callbacks.
    """
    context: contextlib.AbstractContextManager[None] = dspy.context(
        **{
            "lm": lm,
            "adapter": adapter,
            "trace": [],
            "disable_history": True,
            "callbacks": [],
            # The inputs have been checked already.
            "warn_on_type_mismatch": False,
            **own_models.NO_OWN_MODELS,
            **settings,
        }
    )
    return context
