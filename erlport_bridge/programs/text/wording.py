"""Text that came as a term: what counts as text, how it is quoted in an error, and what it may not contain.

Nothing here imports DSPy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from erlport_bridge.term import shown

# DSPy's adapters replace whatever stands between these markers in a user message by content parts of their own, such
# as an image to be fetched from any address. In text that came as data the markers must stay text.
_MARKER_START: Final = "<<CUSTOM-TYPE-"
_HEADER_SIGN: Final = "##"
_HEADER_START: Final = re.compile(r"(\[\[\s*)##")
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
    """Give ``text`` with what is structure in a prompt of DSPy broken by a space, so that data stays data.

    That are the markers of its content parts, and the headers of its sections: ``[[ ## answer ## ]]`` becomes
    ``[[ # # answer ## ]]``.
    """
    text = text.replace(_MARKER_START, _HARMLESS_MARKER_START)
    return _HEADER_START.sub(r"\1# #", text) if _HEADER_SIGN in text else text


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


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """Return the known name of which ``name`` is a misspelling; ``None``: it is another word.

    Stricter than :func:`suggestion`, which may guess. Two letters swapped, one missing, added or wrong count as one
    mistake; a name of up to five letters may have one, a longer name two, and a single letter none.

    >>> misspelt("timout", ["timeout", "temperature"]), misspelt("ml", ["lm"]), misspelt("max_hops", ["max_iters"])
    ('timeout', 'lm', None)
    """
    if not 1 < len(name) <= _MAX_NAME_CHARACTERS:
        return None
    folded = name.lower()
    allowed = 1 if len(name) <= 5 else 2
    mistakes = [
        (_mistakes(folded, candidate.lower()), candidate)
        for candidate in known
        if len(candidate) > 1 and abs(len(candidate) - len(name)) <= allowed
    ]
    count, nearest = min(mistakes, default=(allowed + 1, None))
    return nearest if count <= allowed else None


def _mistakes(name: str, other: str) -> int:
    """Return the optimal string alignment distance of two names."""
    rows: list[list[int]] = [list(range(len(other) + 1))]
    for i, letter in enumerate(name, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and name[i - 2] == wanted:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
