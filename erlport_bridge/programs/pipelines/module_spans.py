"""Record a span for each module of DSPy that runs, below the module that runs it.

DSPy's callbacks would report modules too. They take several times as long as the span, because they get all arguments
by name; so the two methods through which every module runs are replaced. The one for tasks makes the context of a
module in one step, where DSPy makes two, each a copy of all settings.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import dspy
from dspy.dsp.utils import dotdict
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.usage_tracker import UsageTracker

from erlport_bridge import tracing
from erlport_bridge.programs.modules import public_name
from erlport_bridge.programs.pipelines.pipeline import Pipeline

_PROGRAM: Final = "program"


def _name_of(module: dspy.Module) -> str | None:
    """Return the name of a module's span; ``None`` for one that has none."""
    if tracing.here() is None:
        return None
    return _PROGRAM if isinstance(module, Pipeline) else public_name(module)


def _called(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(self: dspy.Module, *args: Any, **kwargs: Any) -> Any:
        name = _name_of(self)
        if name is None:
            return call(self, *args, **kwargs)
        with tracing.span("module", name):
            return call(self, *args, **kwargs)

    return called


def _awaited(acall: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(acall)
    async def awaited(self: dspy.Module, *args: Any, **kwargs: Any) -> Any:
        run = acall if getattr(self, "callbacks", ()) or dspy.settings.callbacks else _unobserved
        name = _name_of(self)
        if name is None:
            return await run(self, *args, **kwargs)
        with tracing.span("module", name):
            return await run(self, *args, **kwargs)

    return awaited


async def _unobserved(module: dspy.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a module as ``Module.acall`` does if no callback is told."""
    settings = {**main_thread_config, **thread_local_overrides.get()}
    settings["caller_modules"] = [*(settings["caller_modules"] or ()), module]
    tracker = None
    if settings["track_usage"] and settings["usage_tracker"] is None:
        settings["usage_tracker"] = tracker = UsageTracker()
    token = thread_local_overrides.set(dotdict(settings))
    try:
        output = await module.aforward(*args, **kwargs)
        if tracker is not None:
            module._set_lm_usage(tracker.get_total_tokens(), output)
    finally:
        thread_local_overrides.reset(token)
    return output


#: The replacements of the patch ``module_spans``.
REPLACEMENTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "dspy.primitives.module:Module.__call__": _called,
    "dspy.primitives.module:Module.acall": _awaited,
}
