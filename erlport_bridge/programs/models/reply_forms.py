"""Write what servers send in forms of their own as the API has it that they imitate, so that DSPy's client reads it.

Mistral streams lists of parts in place of text, some gateways count tokens in text, give the arguments of a tool call
as an object, or send whole messages in a stream. DSPy's client takes no such text for an empty answer, fails at such a
count, and writes such arguments as Python does. A reply in the usual form is not decoded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final


class _Member:
    """A member of a JSON object, as its bytes are found: the end of its name, and how its value begins.

    The name alone is found in a tenth of the time of a regular expression, which a reply of megabytes needs: it is
    looked at on the event loop.
    """

    def __init__(self, name: bytes, value: bytes) -> None:
        self._name = name
        self._pattern = re.compile(re.escape(name) + rb"\s*:\s*" + value)

    def is_in(self, text: bytes) -> bool:
        start = text.find(self._name)
        return start >= 0 and self._pattern.search(text, start) is not None


CHOICES: Final = b'"choices"'
_DELTA: Final = b'"delta"'
_MESSAGE: Final = b'"message"'
# What an unusual reply has: of chat completions content that is no text, or arguments that are an object;
_PARTS: Final = (_Member(b'"content"', rb"[\[{]"), _Member(b'"arguments"', rb"\{"))
# and usage that is no object, or a count of tokens that is no integer. A quoted text would have `\"` here.
_WRONG_COUNT: Final = rb'(?:["tf\[]|-|\d+[.eE])'
_USAGE: Final = (
    *(_Member(name, rb"[^\s{n]") for name in (b'"usage"', b'"usageMetadata"')),
    *(_Member(name, _WRONG_COUNT) for name in (b'okens"', b'TokenCount"')),
)
_USAGES: Final = ("usage", "usageMetadata")
_REASONING: Final = ("thinking", "reasoning")


def usual(text: bytes, *, is_event: bool) -> bytes:
    """Return the JSON of a whole reply, or of an event of a stream, in the usual form; unchanged if it has that."""
    of_chat = CHOICES in text
    has_message = of_chat and is_event and _DELTA not in text and _MESSAGE in text
    has_parts = of_chat and any(part.is_in(text) for part in _PARTS)
    if not (has_message or has_parts or any(usage.is_in(text) for usage in _USAGE)):
        return text
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # the client says what cannot be read
        return text
    if not isinstance(data, dict):
        return text
    if has_message or has_parts:
        for choice in data["choices"] if isinstance(data.get("choices"), list) else ():
            if isinstance(choice, dict):
                _use_text(choice, is_event=is_event)
    # Of Anthropic's first event, and of the last one of OpenAI's responses.
    for holder in (data, data.get("message"), data.get("response")):
        if isinstance(holder, dict):
            _use_counts(holder)
    return json.dumps(data).encode()


def _use_text(choice: dict[str, Any], *, is_event: bool) -> None:
    if is_event and "delta" not in choice and isinstance(choice.get("message"), dict):
        choice["delta"] = choice.pop("message")
    message = choice.get("delta" if is_event else "message")
    if not isinstance(message, dict):
        return
    content = message.get("content")
    if isinstance(content, dict):
        content = [content]
    # A whole reply of texts alone is one for DSPy's client too.
    if isinstance(content, list) and (is_event or not all(_is_text(part) for part in content)):
        message["content"] = "".join(_text(part) for part in content if not _is_reasoning(part))
        reasoning = "".join(_text(part) for part in content if _is_reasoning(part))
        if reasoning and not message.get("reasoning_content"):
            message["reasoning_content"] = reasoning
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"])


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text"


def _is_reasoning(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _REASONING


def _text(part: Any) -> str:
    """Return the text of a part, or of the parts in it: ``%{"type" => "thinking", "thinking" => [part]}``."""
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "".join(map(_text, part))
    if not isinstance(part, Mapping):
        return ""
    return _text(next((part[name] for name in ("text", *_REASONING) if part.get(name)), ""))


def _use_counts(holder: dict[str, Any]) -> None:
    """Convert the counts of tokens to integers, and leave out those that cannot be converted."""
    for name in _USAGES:
        usage = holder.get(name)
        if isinstance(usage, dict):
            holder[name] = _counts(usage)
        elif usage is not None:
            del holder[name]


def _counts(usage: Mapping[str, Any]) -> dict[str, Any]:
    counted: dict[str, Any] = {}
    for name, value in usage.items():
        if isinstance(value, Mapping):
            counted[name] = _counts(value)
        elif not name.lower().endswith(("tokens", "tokencount")):
            counted[name] = value
        elif (count := _count(value)) is not None:
            counted[name] = count
    return counted


def _count(value: Any) -> int | None:
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 19 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return int(value) if value == value // 1 else None
