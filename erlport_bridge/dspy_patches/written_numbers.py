"""Read numbers as a model wrote them: DSPy reads JSON by way of floats, where a ``Decimal`` loses its digits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import json_repair
import pydantic

# Models like to put JSON into a block of Markdown.
_BLOCK: Final = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


class WrittenFloat(float):
    """A float that remembers its digits: Pydantic makes a ``Decimal`` of its text."""

    __slots__ = ("_text",)
    _text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Read JSON's text of a number."""
        self = super().__new__(cls, text)
        self._text = text
        return self

    def __str__(self) -> str:
        """Return the text that it was read from."""
        return self._text


def reader(original: ModuleType) -> SimpleNamespace:
    """Return a stand-in for the module ``json_repair`` whose ``loads`` keeps the digits of numbers."""
    return SimpleNamespace(**{**vars(original), "loads": loads})


def loads(text: Any) -> Any:
    """Read what a model wrote, as ``json_repair.loads`` does; what has to be repaired has the digits of floats."""
    try:
        block = _BLOCK.fullmatch(text)
        return json.loads(block[1] if block else text, parse_float=WrittenFloat)
    except (ValueError, TypeError):
        return json_repair.loads(text)


def plain_values(parse_value: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a stand-in for ``parse_value`` whose results have plain floats: orjson takes no other class for one."""

    def parse_plain_value(value: Any, annotation: Any) -> Any:
        return _plain(parse_value(value, annotation))

    return parse_plain_value


def _plain(value: Any) -> Any:
    if isinstance(value, WrittenFloat):
        return float(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    if isinstance(value, pydantic.BaseModel):
        # In its place, as it has been validated already.
        value.__dict__.update({name: _plain(item) for name, item in value.__dict__.items()})
    return value
