"""Carry the context of a call into the threads of DSPy's optimizers: its progress, its account, its silence."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from dspy.dsp.utils.settings import thread_local_overrides

_Wrap = Callable[[Any, Callable[[Any], Any]], Callable[[Any], Any]]


def carrying_context(wrap: _Wrap) -> _Wrap:
    """Return a replacement for ``ParallelExecutor._wrap_function`` whose functions run in the caller's context."""

    def wrap_here(executor: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        wrapped = wrap(executor, function)
        # DSPy carries its own settings itself.
        carried = [
            (var, value) for var, value in contextvars.copy_context().items() if var is not thread_local_overrides
        ]

        def call(item: Any) -> Any:
            context = contextvars.copy_context()
            for var, value in carried:
                context.run(var.set, value)
            return context.run(wrapped, item)

        return call

    return wrap_here
