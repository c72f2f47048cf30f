"""Check the names of signature fields."""

from __future__ import annotations

import keyword
import unicodedata
from typing import Final

from erlport_bridge.programs.text import quoted

MAX_NAME_CHARACTERS: Final = 100


def name_problem(name: str) -> str | None:
    """Return why ``name`` cannot be the name of a field, or ``None`` if it can."""
    if len(name) > MAX_NAME_CHARACTERS:
        return f"field name of {len(name)} characters, more than {MAX_NAME_CHARACTERS},"
    if not name.isidentifier():
        return f"field name {quoted(name)} is no identifier"
    if keyword.iskeyword(name):
        return f'field name "{name}" is a keyword of Python'
    if name.startswith("_"):
        return f'field name "{name}" starts with an underscore'
    if unicodedata.normalize("NFKC", name) != name:
        # Python normalizes identifiers to NFKC: two fields could become one.
        return f'field name "{name}" is not in Unicode normal form NFKC'
    return None
