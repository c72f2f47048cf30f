"""Text that came as a term: what counts as text, how it is quoted in an error, and what it may not contain.

Nothing here imports DSPy.
"""

from __future__ import annotations

import difflib
import itertools
import json
import reprlib
from collections.abc import Callable, Iterable
from typing import Final

# DSPy's adapters replace whatever stands between these markers in a user message by content parts of their own, such
# as an image to be fetched from any address. In text that came as data the markers must stay text.
_MARKER_START: Final = "<<CUSTOM-TYPE-"
_HARMLESS_MARKER_START: Final = "<< CUSTOM-TYPE-"

_MAX_CODE_POINT: Final = 0x10FFFF

# A longer name is no misspelling of a known one: it is not compared, which would take time that its sender chooses,
# and not shown in full.
_MAX_NAME_CHARACTERS: Final = 64


def text_of(value: object) -> str | None:
    """Give the text of a term: of a string, of an atom, or of a charlist (a list of code points that is not empty).

    Returns:
        A plain ``str`` that UTF-8 can carry; ``None`` if the term is no text.
    """
    if isinstance(value, list):
        if not value or not all(type(point) is int and 0 <= point <= _MAX_CODE_POINT for point in value):
            return None
        value = "".join(map(chr, value))
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character of UTF-16, which a charlist and JSON can hold
        return None
    return str(value)


def expected_text(where: str, value: object) -> str:
    """Give the sentence about a term at ``where`` that is no text."""
    if isinstance(value, bytes):
        return f"expected UTF-8 text at {where}, got a binary that is not UTF-8"
    return f"expected a string at {where}, got {shown(value)}"


def neutral(text: str) -> str:
    """Give ``text`` with DSPy's content part markers broken by a space, so that data stays data in the prompt."""
    return text.replace(_MARKER_START, _HARMLESS_MARKER_START)


def shown(value: object) -> str:
    """Give a term for an error as IEx writes it, in one short line whatever the size of the term."""
    return _SHORT.repr(value)


def quoted(name: str) -> str:
    """Give a name that came from outside for an error, in double quotes; a long one is cut."""
    return f'"{name}"' if len(name) <= _MAX_NAME_CHARACTERS else f'"{name[:_MAX_NAME_CHARACTERS]}…"'


def inside(path: str, key: object) -> str:
    """Give the path of an entry of a map: ``inputs.scores["a"]``, ``inputs.scores[1]``."""
    return f"{path}[{quoted(key) if isinstance(key, str) else shown(key)}]"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Give ``; did you mean "…"?`` with the nearest of the known names, or nothing if none is near."""
    if len(name) > _MAX_NAME_CHARACTERS:
        return ""
    folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), list(folded), n=1)
    return f'; did you mean "{folded[near[0]]}"?' if near else ""


class _ElixirRepr(reprlib.Repr):
    """Writes terms as IEx does, cut short: the reader of an error sent them from Elixir."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 4

    def repr_NoneType(self, x: None, level: int) -> str:  # noqa: N802 - found by the name of the type
        return "nil"

    def repr_bool(self, x: bool, level: int) -> str:
        return str(x).lower()

    def repr_str(self, x: str, level: int) -> str:
        cut = x if len(x) <= self.maxstring else x[: self.maxstring] + "…"
        return json.dumps(cut, ensure_ascii=False)

    def repr_Atom(self, x: str, level: int) -> str:  # noqa: N802
        return f":{x}" if x.isidentifier() else f":{self.repr_str(x, level)}"

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits in decimal.
        return super().repr_int(x, level) if x.bit_length() <= 256 else f"an integer of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        shown_bytes = ", ".join(map(str, x[: self.maxlist]))
        return f"<<{shown_bytes}>>" if len(x) <= self.maxlist else f"a binary of {len(x)} bytes"

    def repr_list(self, x: list[object], level: int) -> str:
        return "[" + self._items(map(self._within(level), x), len(x)) + "]"

    def repr_tuple(self, x: tuple[object, ...], level: int) -> str:
        return "{" + self._items(map(self._within(level), x), len(x)) + "}"

    def repr_dict(self, x: dict[object, object], level: int) -> str:
        write = self._within(level)
        pairs = (f"{write(key)} => {write(value)}" for key, value in x.items())
        return "%{" + self._items(pairs, len(x)) + "}"

    def _within(self, level: int) -> Callable[[object], str]:
        return lambda item: self.repr1(item, level - 1) if level > 0 else "…"

    def _items(self, written: Iterable[str], count: int) -> str:
        more = ["…"] if count > self.maxlist else []
        return ", ".join([*itertools.islice(written, self.maxlist), *more])


_SHORT: Final = _ElixirRepr()
