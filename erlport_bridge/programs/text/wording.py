"""Read text from terms, quote it in errors, suggest names, and disarm the markers of DSPy's prompts in it.

Nothing here imports DSPy.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterable
from typing import Final

from erlport_bridge.term import shown

# DSPy's adapters replace the text between these markers in a user message by content parts, such as an image that the
# provider fetches from any address. In a caller's data the markers must stay text.
_MARKER_START: Final = "<<CUSTOM-TYPE-"
_HEADER_SIGN: Final = "##"
_HEADER_START: Final = re.compile(r"(\[\[\s*)##")
_HARMLESS_MARKER_START: Final = "<< CUSTOM-TYPE-"

# Marks of Markdown and white space on each side of a field's name; with more, the line is no field to any reader.
_MAX_MARKS: Final = 200

_NUMBER_AT_END: Final = re.compile(r"_[0-9]+$")

_MAX_CODE_POINT: Final = 0x10FFFF

# A longer name is not a misspelling of a known name. It is not compared, since its sender would choose how long that
# takes, and not shown in full.
_MAX_NAME_CHARACTERS: Final = 64
_MAX_WORD_CHARACTERS: Final = 64


def text_of(value: object) -> str | None:
    """Return the text of a term: a string, an atom, or a charlist (a list of code points that is not empty).

    Returns:
        A plain ``str`` that UTF-8 can encode; ``None`` if the term is not text.
    """
    if type(value) is str and value.isascii():  # most are
        return value
    if isinstance(value, list):
        if not value or not all(type(point) is int and 0 <= point <= _MAX_CODE_POINT for point in value):
            return None
        value = "".join(map(chr, value))
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which a charlist and JSON can hold
        return None
    return str(value)


def expected_text(where: str, value: object) -> str:
    """Return the error message about a term at ``where`` that is not text."""
    if isinstance(value, bytes):
        return f"expected UTF-8 text at {where}, got a binary that is not UTF-8"
    wanted = "a string that is not empty" if value == "" else "a string"
    return f"expected {wanted} at {where}, got {shown(value)}"


def neutral(text: str) -> str:
    """Return ``text`` with DSPy's prompt markers broken by a space, so that a caller's data stays data.

    The markers are the start of a content part, and a section header: ``[[ ## answer ## ]]`` becomes
    ``[[ # # answer ## ]]``.
    """
    return without_headers(text.replace(_MARKER_START, _HARMLESS_MARKER_START))


def without_headers(text: str) -> str:
    """Return ``text`` with every section header broken by a space, as :func:`neutral` does."""
    return _HEADER_START.sub(r"\1# #", text) if _HEADER_SIGN in text else text


def indented_below(text: str, names: Collection[str] | None) -> str:
    r"""Return a text whose lines cannot pose as fields, which ``TwoStepAdapter`` writes as ``name: value``.

    If a line after the first one begins like a field of these names, or of any name, all of them are indented.

    >>> indented_below("a\nanswer: 7", ["answer"])
    'a\n    answer: 7'
    """
    if "\n" not in text or not _field_lines(None if names is None else frozenset(names)).search(text):
        return text
    return text.replace("\n", "\n    ")


@functools.lru_cache(maxsize=512)
def _field_lines(names: frozenset[str] | None) -> re.Pattern[str]:
    # Runs of marks are bounded, and `(?=(x))\1` is x without backtracking: otherwise long runs of line breaks or
    # underscores would take quadratic time. No field's name begins with an underscore.
    known = r"(?=([^\W_]\w*))\1" if names is None else any_of(names)
    run = f"{{0,{_MAX_MARKS}}}"
    return re.compile(rf"\n(?:[^\S\n]|[>*_`#-]){run}(?:{known})[\s*_`]{run}:", re.IGNORECASE)


def any_of(names: Iterable[str]) -> str:
    """Return the pattern of these names; a name that ends in a number stands for all its numbers: ``thought_0``."""
    patterns = {_NUMBER_AT_END.sub("_[0-9]+", re.escape(name)) for name in names}
    return "|".join(sorted(patterns, key=len, reverse=True))


def quoted(name: str) -> str:
    """Return a caller's name in double quotes for an error; a long name is cut."""
    return f'"{name}"' if len(name) <= _MAX_NAME_CHARACTERS else f'"{name[:_MAX_NAME_CHARACTERS]}…"'


def inside(path: str, key: object) -> str:
    """Return the path of an entry of a map: ``inputs.scores["a"]``, ``inputs.scores[1]``."""
    return f"{path}[{quoted(key) if isinstance(key, str) else shown(key)}]"


def beginning(text: str, most: int) -> str:
    """Return a text of at most ``most`` characters, or its beginning up to the end of a word, with an ellipsis.

    >>> beginning("the model refused the request", 20)
    'the model refused…'
    """
    if len(text) <= most:
        return text
    # What is longer, such as base64, is no word.
    end = text.rfind(" ", max(0, most - _MAX_WORD_CHARACTERS), most)
    return f"{text[: most - 1 if end < 0 else end]}…"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``(did you mean "…"?)`` with the nearest known name, or an empty string if none is near."""
    if len(name) > _MAX_NAME_CHARACTERS:
        return ""
    # What names share up to the last dot, such as `dspy.`, would make all of them alike.
    start = name.rfind(".") + 1
    folded = {
        candidate[start:].lower(): candidate for candidate in known if candidate[:start].lower() == name[:start].lower()
    }
    near = difflib.get_close_matches(name[start:].lower(), list(folded), n=1)
    return f' (did you mean "{folded[near[0]]}"?)' if near else ""


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` misspells, or ``None`` if ``name`` is another word.

    This is stricter than :func:`suggestion`, which may guess. Two letters swapped, or one letter missing, added or
    wrong, count as one mistake. A name of up to five letters may have one mistake, a longer name two, a single letter
    none. Of names that are equally near, one that begins like ``name`` is meant, as a plural does.

    >>> misspelt("timout", ["timeout", "temperature"]), misspelt("ml", ["lm"]), misspelt("max_hops", ["max_iters"])
    ('timeout', 'lm', None)
    >>> misspelt("tool", ["pool", "tools"])
    'tools'
    """
    if not 1 < len(name) <= _MAX_NAME_CHARACTERS:
        return None
    folded = name.lower()
    allowed = 1 if len(name) <= 5 else 2
    mistakes = [
        (_mistakes(folded, candidate.lower()), not candidate.lower().startswith(folded), candidate)
        for candidate in known
        if len(candidate) > 1 and abs(len(candidate) - len(name)) <= allowed
    ]
    count, _, nearest = min(mistakes, default=(allowed + 1, True, None))
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
