"""Record a span for each module of DSPy that runs, below the module that runs it.

DSPy's callbacks would report modules too. They take several times as long as the span, because they get all arguments
by name; so the two methods through which every module runs are replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import dspy

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
        name = _name_of(self)
        if name is None:
            return await acall(self, *args, **kwargs)
        with tracing.span("module", name):
            return await acall(self, *args, **kwargs)

    return awaited


#: The replacements of the patch ``module_spans``.
REPLACEMENTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "dspy.primitives.module:Module.__call__": _called,
    "dspy.primitives.module:Module.acall": _awaited,
}
