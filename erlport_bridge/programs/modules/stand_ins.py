"""Find the class of DSPy that one of the port's modules stands in for.

A module of the port that replaces one of DSPy's has an attribute ``stands_for``, DSPy's class. A module that only wraps
one of DSPy's has ``wraps`` set, and the wrapped module as ``module``.
"""

from __future__ import annotations

import dspy


def plain_module(module: dspy.Module) -> dspy.Module:
    """Return the module that a wrapper of the port contains, or the module itself if it is no wrapper."""
    return module.module if getattr(module, "wraps", False) else module


def public_name(module: dspy.Module) -> str | None:
    """Return the name of a module as callers know it; ``None`` for a wrapper, which callers do not know."""
    # Of the class: DSPy looks at every read of an attribute of a module.
    cls = type(module)
    if getattr(cls, "wraps", False):
        return None
    cls = getattr(cls, "stands_for", cls)
    return f"dspy.{cls.__name__}" if cls.__module__.startswith("dspy.") else f"{cls.__module__}.{cls.__name__}"
