"""Find the arguments and the method of a callback once for each function and class of objects.

DSPy finds both again in each call; for a request with callbacks, such as a stream's, this takes 0.5 ms.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final
from weakref import WeakKeyDictionary

from dspy.utils.callback import BaseCallback

# A function of DSPy that returns the method of a callback for a call of this function of this object.
_Choice = Callable[[BaseCallback, Any, Callable[..., Any]], Callable[..., Any]]

_NO_CALLBACK: Final = BaseCallback()


@functools.lru_cache(maxsize=512)
def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function, follow_wrapped=False)


def _call_arguments(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what ``inspect.getcallargs`` returns, for functions."""
    bound = _signature_of(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def quick_inspect(original: ModuleType) -> SimpleNamespace:
    """Return a replacement for the module ``inspect`` whose ``getcallargs`` caches the parameters of functions."""
    return SimpleNamespace(**{**vars(original), "getcallargs": _call_arguments})


def chosen_once(choose: _Choice) -> _Choice:
    """Return a replacement for ``choose`` that chooses once for each class of objects and each function name."""
    chosen: WeakKeyDictionary[type, dict[tuple[str, bool], str]] = WeakKeyDictionary()

    @functools.wraps(choose)
    def choose_once(callback: BaseCallback, instance: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        known = chosen.get(type(instance))
        if known is None:
            known = chosen[type(instance)] = {}
        # DSPy's choice depends on nothing else of the object.
        key = function.__name__, getattr(instance, "supports_decision_requests", False) is True
        name = known.get(key)
        if name is None:
            name = known[key] = choose(_NO_CALLBACK, instance, function).__name__
        method: Callable[..., Any] = getattr(callback, name)
        return method

    return choose_once
