"""Check the texts of messages without a call for each part of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_KEYS: Final = frozenset({"role", "content"})
_ROLES: Final = ("user", "system", "assistant")


def of_messages(original: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """Return a replacement for ``_check_encodable``, which leaves to DSPy what is no list of messages of text alone."""

    def check_encodable(value: Any, where: str) -> None:
        if type(value) is not list:
            original(value, where)
            return
        for message in value:
            if type(message) is dict and message.keys() == _KEYS and message["role"] in _ROLES:
                text = message["content"]
                # DSPy words the error of a text with half a character.
                if type(text) is str and (text.isascii() or _is_encodable(text)):
                    continue
            original(message, where)

    return check_encodable


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
