"""Check the names of signature fields, and which of them a module keeps for itself."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Reserved:
    """Field names that modules use themselves, each with the name of its module.

    Attributes:
        fields: Names that no field may have.
        inputs: Names that an output may have, and no input.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: Reserved) -> Reserved:
        """Return the names of both; ``other`` says whose name it is if both have it."""
        return Reserved({**self.fields, **other.fields}, {**self.inputs, **other.inputs})

    def owner(self, name: str, *, of_input: bool) -> str | None:
        """Return the module that uses the name of such a field itself."""
        return self.fields.get(name) or (self.inputs.get(name) if of_input else None)
