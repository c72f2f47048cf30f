"""Numbers as a model wrote them: DSPy reads JSON by way of floats, where a ``Decimal`` would lose its digits."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, Final

import json_repair
import pydantic
from dspy.adapters import chat_adapter, json_adapter, utils, xml_adapter
from dspy.predict import rlm
from dspy.predict.flex import bridge

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
        """Give the text that it was read from."""
        return self._text


def loads(text: Any) -> Any:
    """Read what a model wrote, as ``json_repair.loads`` does; what has to be repaired has the digits of floats."""
    try:
        block = _BLOCK.fullmatch(text)
        return json.loads(block[1] if block else text, parse_float=WrittenFloat)
    except (ValueError, TypeError):
        return json_repair.loads(text)


def parse_value(value: Any, annotation: Any) -> Any:
    """Read the value of a field as DSPy does, with the digits of decimals; all else that has a point is a plain float.

    Not everybody who comes next takes another class of float for one: orjson does not.
    """
    return _plain(utils.parse_value(value, annotation))


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


def keep_digits() -> None:
    """Have DSPy read answers by these, from now on."""
    for module in (utils, json_adapter):
        module.json_repair = SimpleNamespace(loads=loads)
    for module in (chat_adapter, json_adapter, xml_adapter, rlm, bridge):
        if module.parse_value not in (utils.parse_value, parse_value):
            raise RuntimeError(f"{module.__name__} reads values in a way that is not known here")
        module.parse_value = parse_value
