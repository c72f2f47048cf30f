"""Settings of a generation: accepted when a model is configured and in the options of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.term import shown

#: Their names.
GENERATION_SETTINGS: Final = frozenset(
    [
        "temperature",
        "max_tokens",
        "n",
        "top_p",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
    ]
)
# OpenAI's limit. The embedded model would write any number of them, and could not be stopped.
_MAX_COMPLETIONS: Final = 128
# JSON's readers hold no larger integer, and Python refuses to write one of more than 4,300 digits.
_MAX_NUMBER: Final = 2**63 - 1


def read_settings(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Read those settings that stand in a map; one that is ``None`` is left to the model.

    Raises:
        OperationError: Of kind ``input``.
    """
    settings = {
        name: generation_setting(name, given[name], path) for name in sorted(GENERATION_SETTINGS & given.keys())
    }
    return {name: value for name, value in settings.items() if value is not None}


def generation_setting(name: str, value: object, path: str = "opts") -> Any:
    """Check one setting.

    Raises:
        OperationError: Of kind ``input``.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = type(value) is int
    wrong: str | None = None
    if value is None:
        return None
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        wrong = "a number of at most 63 bits"
    elif name == "n":
        wrong = None if whole and 0 < value <= _MAX_COMPLETIONS else f"1 to {_MAX_COMPLETIONS}"  # type: ignore[operator]
    elif name == "max_tokens":
        wrong = None if whole and value > 0 else "a positive integer"  # type: ignore[operator]
    elif name == "seed":
        wrong = None if whole else "an integer"
    elif name == "stop":
        if isinstance(value, str):
            return [str(value)]
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return [str(item) for item in value]
        wrong = "a string or a list of strings"
    elif name == "reasoning_effort":
        if isinstance(value, str):
            return str(value)
        wrong = "a string"
    elif not number:
        wrong = "a number"
    if wrong is not None:
        raise OperationError("input", f"expected {wrong} at {path}.{name}, got {shown(value)}", path=f"{path}.{name}")
    return value
