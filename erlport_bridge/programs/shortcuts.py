"""What DSPy makes anew for every value of every call, and need not.

Pydantic's documentation says of a ``TypeAdapter`` that it should be made once. DSPy 3.4 makes one for each value that
it writes into a prompt, and for each that it reads: 40 to 90 microseconds each time.
"""

from __future__ import annotations

import functools
from typing import Any

import pydantic
from dspy.adapters import utils

_adapter_of_class = functools.lru_cache(maxsize=512)(pydantic.TypeAdapter)


@functools.lru_cache(maxsize=512)
def _adapter_of_form(annotation: Any, _text: str) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    try:
        if isinstance(annotation, type):
            return _adapter_of_class(annotation)
        # By its text too: `int | str` and `str | int` are equal, and are read differently.
        return _adapter_of_form(annotation, repr(annotation))
    except TypeError:  # it cannot be hashed
        return pydantic.TypeAdapter(annotation)


def install() -> None:
    """Have DSPy use one adapter for each type, from now on."""
    utils.TypeAdapter = _adapter
