"""Look up a setting of DSPy by one call of a function; its own ``get`` takes three, four times for a prediction."""

from __future__ import annotations

import importlib
from typing import Any, Final

# `dspy.dsp.utils.settings` as a name is the object in it.
_module: Final = importlib.import_module("dspy.dsp.utils.settings")


def setting(_settings: Any, key: str, default: Any = None) -> Any:
    """Return what ``Settings.get`` returns: the value of the context, or of the process, or the default."""
    overrides = _module.thread_local_overrides.get()
    if key in overrides:
        return overrides[key]
    return _module.main_thread_config.get(key, default)
