"""The context in which DSPy runs: built here for every request, evaluation and compilation."""

from __future__ import annotations

import contextlib
from typing import Any

import dspy


def dspy_context(lm: dspy.LM | None, adapter: dspy.Adapter, **settings: Any) -> contextlib.AbstractContextManager[None]:
    """Return the context in which DSPy asks ``lm`` in the words of ``adapter``.

    Nothing of one request is seen by another: neither trace, history nor callbacks, which ``settings`` may name.
    """
    context: contextlib.AbstractContextManager[None] = dspy.context(
        **{
            "lm": lm,
            "adapter": adapter,
            "trace": [],
            "disable_history": True,
            "callbacks": [],
            # All inputs have been checked.
            "warn_on_type_mismatch": False,
            **settings,
        }
    )
    return context
