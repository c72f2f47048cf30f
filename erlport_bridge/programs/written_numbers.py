"""Numbers as a model wrote them: DSPy reads JSON by way of floats, where a ``Decimal`` would lose its digits."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, Final

import json_repair
from dspy.adapters import json_adapter, utils

# Models like to put JSON into a block of Markdown.
_BLOCK: Final = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


class WrittenFloat(float):
    """A float that remembers its digits: Pydantic makes a ``Decimal`` of its text.

    It makes a plain float of it for ``float``; for ``Any`` it stays what it is, and has the term of a float.
    """

    __slots__ = ("_text",)
    _text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Read JSON's text of a number."""
        self = super().__new__(cls, text)
        self._text = text
        return self

    def __str__(self) -> str:
        """Give the text that it was read from."""
        return self._text


def loads(text: Any) -> Any:
    """Read what a model wrote, as ``json_repair.loads`` does; what has to be repaired has the digits of floats."""
    try:
        block = _BLOCK.fullmatch(text)
        return json.loads(block[1] if block else text, parse_float=WrittenFloat)
    except (ValueError, TypeError):
        return json_repair.loads(text)


def keep_digits() -> None:
    """Have the adapters of DSPy read answers by :func:`loads`."""
    for module in (utils, json_adapter):
        if module.json_repair is json_repair:
            module.json_repair = SimpleNamespace(loads=loads)
