"""Keep the digits of numbers that a model wrote: DSPy reads JSON through floats, in which a ``Decimal`` loses some."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import json_repair
import pydantic

# Models often put JSON into a code block of Markdown.
_BLOCK: Final = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


class WrittenFloat(float):
    """A float that keeps its text, from which Pydantic makes a ``Decimal``."""

    __slots__ = ("_text",)
    _text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Read the JSON text of a number."""
        self = super().__new__(cls, text)
        self._text = text
        return self

    def __str__(self) -> str:
        """Return the text of the number, as the model wrote it."""
        return self._text


def reader(original: ModuleType) -> SimpleNamespace:
    """Return a replacement for the module ``json_repair`` whose ``loads`` keeps the digits of numbers."""
    return SimpleNamespace(**{**vars(original), "loads": loads})


def loads(text: Any) -> Any:
    """Read JSON as ``json_repair.loads`` does; numbers in JSON that needs repair have the digits of floats."""
    try:
        block = _BLOCK.fullmatch(text)
        return json.loads(block[1] if block else text, parse_float=WrittenFloat)
    except (ValueError, TypeError):
        return json_repair.loads(text)


def plain_values(parse_value: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a replacement for ``parse_value`` that returns plain floats, as orjson refuses subclasses of float."""

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
        # The model is modified in place, since it has been validated already.
        value.__dict__.update({name: _plain(item) for name, item in value.__dict__.items()})
    return value
