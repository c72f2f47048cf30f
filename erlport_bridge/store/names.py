"""Write ids as texts that every database can hold: PostgreSQL has no zero bytes."""

from __future__ import annotations


def key_of(name: str) -> str:
    """Return an id as the text of a row."""
    return name.replace("\\", "\\\\").replace("\0", "\\0")


def name_of(key: str) -> str:
    """Return the id that :func:`key_of` has written."""
    return "\\".join(part.replace("\\0", "\0") for part in key.split("\\\\"))
