"""Keep the texts of a trace: prompts, answers, arguments, without API keys and within a limit of size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from erlport_bridge.redaction import redact, redact_beginning

#: The most characters of one text.
MAX_CHARACTERS: Final = 20_000
#: The most characters of all texts of a call.
MAX_TOTAL: Final = 4_000_000
#: The most elements of a value that is written as JSON.
_MAX_ELEMENTS: Final = 1_000
_MAX_DEPTH: Final = 10
# Longer names say no more.
_MAX_NAME: Final = 200


class Texts:
    """The texts of one call, which together have at most :data:`MAX_TOTAL` characters."""

    def __init__(self) -> None:
        self._left = MAX_TOTAL

    def keep(self, value: Any) -> Any:
        """Return what is kept of a value: of a text its beginning; of another value its JSON, as text.

        Returns ``None`` when the call has no room left.
        """
        if self._left <= 0:
            return None
        text = value if isinstance(value, str) else _as_json(value)
        kept = redact_beginning(text, MAX_CHARACTERS)
        if len(text) > MAX_CHARACTERS:
            kept += f"… ({len(text) - MAX_CHARACTERS} characters more)"
        self._left -= len(kept)
        return _sendable(kept)

    def keep_messages(self, messages: Sequence[Any]) -> list[dict[str, Any]]:
        """Return what is kept of the messages to a model: the role and the content of each."""
        kept = []
        for message in messages:
            if self._left <= 0:
                break
            given = message if isinstance(message, Mapping) else {"content": message}
            rest = {key: value for key, value in given.items() if key not in ("role", "content")}
            content = given.get("content")
            kept_content = self.keep("" if content is None else _joined(content))
            entry = {"role": name(str(given.get("role", "user"))), "content": kept_content}
            if rest:
                entry["rest"] = self.keep(rest)
            kept.append(entry)
        return kept


def name(text: str) -> str:
    """Return a name as a span has it: short and without API keys."""
    if len(text) <= _MAX_NAME and text.isascii():
        return redact(text)
    return _sendable(redact(text[: 2 * _MAX_NAME])[:_MAX_NAME])


def _joined(content: Any) -> Any:
    """Return the text of a content that consists of parts of text; another content unchanged."""
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and part.keys() == {"type", "text"} and isinstance(part["text"], str)
        for part in content
    ):
        return "\n".join(part["text"] for part in content)
    return content


def _as_json(value: Any) -> str:
    return json.dumps(_Bounded().copy(value, 0), ensure_ascii=False)


class _Bounded:
    """Copies a value for JSON: what is too much of it is left out, so that the time is bounded."""

    def __init__(self) -> None:
        self._left = _MAX_ELEMENTS

    def copy(self, value: Any, depth: int) -> Any:
        """Return a copy without cycles, of plain values only."""
        self._left -= 1
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return value[:MAX_CHARACTERS] + ("…" if len(value) > MAX_CHARACTERS else "")
        if depth >= _MAX_DEPTH or self._left <= 0:
            return "…"
        if isinstance(value, Mapping):
            return {str(key)[:_MAX_NAME]: self.copy(item, depth + 1) for key, item in self._first(value.items())}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.copy(item, depth + 1) for item in self._first(value)]
        return _shown(value)[:MAX_CHARACTERS]

    def _first(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if self._left <= 0:
                return
            yield item


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be shown must not fail the call
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _sendable(text: str) -> str:
    """Return a text without lone surrogates, which no binary can hold."""
    return text.encode("utf-8", "backslashreplace").decode()
