"""Find the JSON object with a completion's fields: alone, in a code block, in prose, or in what models wrap it in.

Nothing here imports DSPy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from erlport_bridge.programs.text.chat_text import SPACE

_THOUGHTS: Final = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL)
_BLOCK: Final = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*[\w+.#-]*[ \t]*\r?\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE
)
_MAX_WRAPPINGS: Final = 4
# A completion is searched for this many values at most: the search is quadratic in the number of brackets.
_MAX_STARTS: Final = 200
_DECODER: Final = json.JSONDecoder(strict=False)


def object_of(completion: str, names: Collection[str], loads: Callable[[str], Any]) -> dict[str, Any] | None:
    """Return the object that holds the fields of a completion, or ``None`` if there is no object.

    Args:
        completion: The text of the model.
        names: The names of the fields.
        loads: Reads a text that is JSON, or nearly; the result for other text is anything but a map, or a ValueError.

    If several objects hold as many of the fields, the last one counts: before its answer, a model may quote its input.
    An object without any of the fields may contain the one that has them: ``{"response": {…}}``.
    """
    text = completion.strip(SPACE)
    thoughts = _THOUGHTS.match(text)
    if thoughts is not None:
        text = text[thoughts.end() :].strip(SPACE)
    best: dict[str, Any] | None = None
    most = -1
    for value in _values(text, loads):
        found = _unwrapped(value, names, loads)
        if found is not None and (count := sum(name in found for name in names)) >= max(most, 0):
            best, most = found, count
    return best


def _values(text: str, loads: Callable[[str], Any]) -> Iterator[Any]:
    """Yield the values in a text; JSON with mistakes counts only where there is none without."""
    if _is_json(text):
        yield _loaded(text, loads)
        return
    parts = [block[2] for block in _BLOCK.finditer(text)]
    found = [part for part in parts if _is_json(part)] or list(_objects_in(text))
    if found:
        yield from (_loaded(part, loads) for part in found)
        return
    start, end = text.find("{"), text.rfind("}")
    for part in (*parts, text, text[start : end + 1] if 0 <= start < end else ""):
        if part:
            yield _loaded(part, loads)


def _loaded(text: str, loads: Callable[[str], Any]) -> Any:
    try:
        return loads(text)
    except (ValueError, RecursionError):  # it nests too deep
        return None


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text.strip(SPACE))
    except (ValueError, RecursionError):
        return False
    return True


def _objects_in(text: str) -> Iterator[str]:
    position = 0
    for _ in range(_MAX_STARTS):
        start = text.find("{", position)
        if start < 0:
            return
        try:
            value, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
        else:
            if isinstance(value, dict):
                yield text[start:position]


def _unwrapped(value: Any, names: Collection[str], loads: Callable[[str], Any]) -> dict[str, Any] | None:
    """Return the object with fields of these names in a value, or the value itself if it is a map; else ``None``."""
    level = [value]
    first: dict[str, Any] | None = None
    for _ in range(_MAX_WRAPPINGS):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str) and item.lstrip()[:1] in ("{", "["):
                item = _loaded(item, loads)
            if isinstance(item, Mapping):
                if any(name in item for name in names):
                    return dict(item)
                first = dict(item) if first is None else first
                inner += item.values()
            elif isinstance(item, list) and len(item) == 1:
                inner += item
        level = inner
    return first
