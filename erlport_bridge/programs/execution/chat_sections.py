"""The fields of a completion while it is being written, in the form that DSPy's ``ChatAdapter`` reads.

Exactly what the adapter finds in the whole text (``ChatAdapter.parse``): a line that begins with ``[[ ## name ## ]]``
begins a field, the first field of a name counts, white space around a value and the kind of line break do not.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_HEADER: Final = re.compile(r"\[\[ ## (\w+) ## \]\]")
_OPENING: Final = "[[ ## "
_CLOSING: Final = " ## ]]"


class ChatSections:
    r"""Cuts a completion into pieces of fields.

    Not ``dspy.streaming.StreamListener``: it ends a value at any ``[[``, and gives nothing if a field comes at once.

    Args:
        names: The fields that are wanted.

    >>> sections = ChatSections({"answer"})
    >>> sections.receive("[[ ## answer ##")
    []
    >>> sections.receive(" ]]\nLis"), sections.receive("bon\n\n[[ ## completed ## ]]")
    ([('answer', 'Lis')], [('answer', 'bon')])
    """

    def __init__(self, names: Collection[str]) -> None:
        self._missing = set(names)
        self._current: str | None = None
        # What may still become a header, or a line break of two characters.
        self._undecided = ""
        # White space that belongs to the value if more of the value follows.
        self._held = ""
        self._is_begun = False
        self._is_within_line = False
        self._is_header_line = False

    def receive(self, text: str) -> list[tuple[str, str]]:
        """Give the pieces, each with the name of its field, that ``text`` completes; none is empty."""
        pieces: list[tuple[str, str]] = []
        lines = (self._undecided + text).splitlines(keepends=True)
        self._undecided = ""
        for line in lines:
            content = line.splitlines()[0]
            # Of "\r\n" the second half may be yet to come.
            is_whole = len(content) < len(line) and not (line is lines[-1] and line.endswith("\r"))
            if is_whole:
                self._receive_part(content, pieces)
                self._end_line(pieces)
            elif self._is_within_line or not _may_become_header(content):
                self._receive_part(content, pieces)
                self._is_within_line = True
                self._undecided = line[len(content) :]
            else:
                self._undecided = line
        return pieces

    def end(self) -> list[tuple[str, str]]:
        """Give the pieces that the end of the completion completes."""
        pieces: list[tuple[str, str]] = []
        for content in self._undecided.splitlines():
            self._receive_part(content, pieces)
        self._undecided = ""
        self._current = None
        self._missing.clear()
        return pieces

    def _receive_part(self, content: str, pieces: list[tuple[str, str]]) -> None:
        """Take a line, or a part of one that is not to be cut further."""
        # The adapter's own way, which counts the white space before a header as characters of it.
        header = None if self._is_within_line else _HEADER.match(content.strip())
        if header is None:
            self._give(content, pieces)
            return
        self._current = header[1] if header[1] in self._missing else None
        self._missing.discard(header[1])
        self._held = ""
        self._is_begun = False
        self._is_header_line = True
        self._give(content[header.end() :], pieces)

    def _end_line(self, pieces: list[tuple[str, str]]) -> None:
        if self._is_header_line:
            # The adapter strips what stands beside a header by itself.
            self._held = ""
        self._is_header_line = self._is_within_line = False
        self._give("\n", pieces)

    def _give(self, text: str, pieces: list[tuple[str, str]]) -> None:
        if self._current is None:
            return
        text = self._held + text
        if not self._is_begun:
            text = text.lstrip()
        given = text.rstrip()
        self._held = text[len(given) :]
        if given:
            self._is_begun = True
            pieces.append((self._current, given))


def _may_become_header(content: str) -> bool:
    """Tell whether a line that begins with ``content`` may still begin with a header."""
    begun = content.lstrip()
    if _OPENING.startswith(begun):
        return True
    if not begun.startswith(_OPENING) or _HEADER.match(begun):
        return False
    name, space, rest = begun[len(_OPENING) :].partition(" ")
    return re.fullmatch(r"\w+", name) is not None and _CLOSING.startswith(space + rest)
