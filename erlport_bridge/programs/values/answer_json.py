"""Find the JSON value that a model meant in its text: plain JSON, JSON in a code block, in prose, or nearly JSON."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import json_repair

from erlport_bridge.programs.text import chat_text


class WrittenFloat(float):
    """A float that keeps its text, from which a ``Decimal`` has all digits that the model wrote."""

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


#: Returned for text without a value, since ``None`` is a value.
NO: Final[Any] = object()

_FENCE: Final = "```"
# What follows a fence in its line: the name of a language.
_LANGUAGE: Final = re.compile(r"[ \t]*[\w+-]*")
# A fence at the start of a line: the beginning of a code block if it has no more than a language behind it.
_FENCE_LINE: Final = re.compile(r"^[ \t]*```", re.MULTILINE)
_CONSTANTS: Final = {"True": True, "False": False, "None": None}
_THOUGHTS: Final = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL)
_CONTAINER_START: Final = re.compile(r"[\[{]")
_CLOSING: Final = {"{": "}", "[": "]"}
# Longer text that is no JSON is not searched for values: the search is quadratic in the number of brackets.
_MAX_STARTS: Final = 200
# What reading costs until it is given up because the text nests too deep, in characters.
_MAX_DEPTH: Final = 1_000
# How often such text is read, at most.
_MAX_READINGS: Final = 3
# Python's parser keeps the GIL for as long as it reads, and needs 200 bytes for a character.
_MAX_PYTHON_CHARACTERS: Final = 65_536
#: JSON with mistakes is repaired up to this length: repairing takes 5 µs for a character, and for some texts a time
#: that is quadratic in their length.
MAX_REPAIRED_CHARACTERS: Final = 65_536


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen and seen[key] != value:
                raise ValueError(f"the key {key!r} twice, with different values")
            seen[key] = value
    return found


# Line breaks inside strings are read too, as models often write them.
_DECODER: Final = json.JSONDecoder(strict=False, parse_float=WrittenFloat, object_pairs_hook=_object)


def exact(text: str) -> Any:
    """Return the value of a text that is JSON as a whole, or a constant of Python; otherwise :data:`NO`.

    A code block around the JSON is left out. Lists, maps and tuples may be written as in Python, since DSPy's prompts
    ask for Python types.
    """
    text = text.strip()
    found = _decoded(text)
    if found is not NO:
        return found
    block = whole_block(text)
    return NO if block is None else _decoded(block)


def whole_block(text: str) -> str | None:
    """Return the content of a text that is one code block of Markdown, or ``None``."""
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return None
    content = text[len(_FENCE) : -len(_FENCE)]
    language = _LANGUAGE.match(content)
    return content[language.end() if language else 0 :].strip()


def _blocks(text: str) -> list[str]:
    """Return the contents of the code blocks of a text, whose fences begin a line."""
    found: list[str] = []
    begin: int | None = None
    if _FENCE not in text:  # many times faster than the pattern, which keeps the GIL
        return found
    for fence in _FENCE_LINE.finditer(text):
        if begin is not None:
            if fence.start() > begin:
                found.append(text[begin : fence.start()].strip())
                begin = None
            continue
        line_end = text.find("\n", fence.end())
        if line_end >= 0 and _LANGUAGE.fullmatch(text[fence.end() : line_end].rstrip(" \t")):
            begin = line_end + 1
    return found


def remark(text: str) -> str:
    """Return what an error about a text that is no JSON adds if the text is too long to be repaired."""
    if len(text) <= MAX_REPAIRED_CHARACTERS or not text.lstrip().startswith(("{", "[", _FENCE)):
        return ""
    return f"; JSON with mistakes is read up to {MAX_REPAIRED_CHARACTERS} characters"


def containers(text: str) -> Iterator[Any]:
    """Yield the lists and maps of a text that is not JSON as a whole, the likeliest first.

    A code block or a JSON value in prose counts if there is only one. JSON with mistakes counts if it is the whole text
    or the whole block: then nothing is lost but the mistakes.
    """
    text = text.strip()
    blocks = _blocks(text)
    found = [value for value in map(_decoded, blocks) if isinstance(value, list | dict | tuple)]
    if not found:
        found = _in_prose(text)
    if len(found) == 1:
        yield found[0]
    whole = whole_block(text)
    for part in (text if whole is None else whole, *(blocks if len(blocks) == 1 else ())):
        if part[:1] in _CLOSING and part.endswith(_CLOSING[part[0]]) and len(part) <= MAX_REPAIRED_CHARACTERS:
            repaired = json_repair.loads(part)
            if isinstance(repaired, list if part[0] == "[" else dict):
                yield repaired


def values_in(completion: str) -> Iterator[Any]:
    """Yield the values of a completion that consists of JSON, in their order; thoughts before them are left out.

    JSON with mistakes counts only if there is no other, and if it is the whole text or a whole block.
    """
    text = completion.strip(chat_text.SPACE)
    thoughts = _THOUGHTS.match(text)
    if thoughts is not None:
        text = text[thoughts.end() :].strip(chat_text.SPACE)
    whole = exact(text)
    if whole is not NO:
        yield whole
        return
    blocks = [block for block in map(_decoded, _blocks(text)) if block is not NO]
    found = blocks or [value for value in _in_prose(text) if isinstance(value, dict)]
    yield from found or containers(text)


def loads(text: Any) -> Any:
    """Read JSON as ``json_repair.loads`` does; numbers in JSON that needs no repair keep their digits."""
    found = exact(text) if isinstance(text, str) else NO
    if found is not NO and not isinstance(found, tuple | set):
        return found
    if isinstance(text, str) and len(text) > MAX_REPAIRED_CHARACTERS:
        raise ValueError(f"expected JSON; with mistakes it is read up to {MAX_REPAIRED_CHARACTERS} characters")
    return json_repair.loads(text)


def _decoded(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        pass
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[:1] not in ("[", "{", "(") or len(text) > _MAX_PYTHON_CHARACTERS:
        return NO
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return NO
    return found if isinstance(found, list | dict | tuple | set) else NO  # "(7)" is a number to Python


def _in_prose(text: str) -> list[Any]:
    found: list[Any] = []
    position = 0
    left = _MAX_READINGS * len(text)
    for _ in range(_MAX_STARTS):
        start = _CONTAINER_START.search(text, position)
        if start is None or left < 0:
            break
        try:
            value, position = _DECODER.raw_decode(text, start.start())
        except json.JSONDecodeError as error:
            left -= error.pos - start.start()
            position = start.end()
        except (ValueError, RecursionError):
            left -= _MAX_DEPTH
            position = start.end()
        else:
            found.append(value)
    return found
