"""Classes of ours that stand in for one of DSPy's, and how to find what they stand for.

Such a class has an attribute ``stands_for``, DSPy's class; one that only wraps a module of DSPy has ``wraps`` set, and
the module as ``module``.
"""

from __future__ import annotations

import dspy


def plain_module(module: dspy.Module) -> dspy.Module:
    """Give the module of DSPy that one of ours wraps, or the module itself."""
    return module.module if getattr(module, "wraps", False) else module


def public_name(module: dspy.Module) -> str | None:
    """Give the name of a module as callers know it; ``None`` for one that they do not."""
    if getattr(module, "wraps", False):
        return None
    cls = getattr(module, "stands_for", type(module))
    return f"dspy.{cls.__name__}" if cls.__module__.startswith("dspy.") else f"{cls.__module__}.{cls.__name__}"
