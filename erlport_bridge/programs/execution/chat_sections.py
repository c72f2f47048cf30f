"""Split a completion into its fields while the model writes it, in the format of DSPy's ``ChatAdapter``.

The fields are exactly those that the adapter finds in the whole text (``ChatAdapter.parse``): a line that begins with
``[[ ## name ## ]]`` begins a field, the first field of a name counts, and neither white space around a value nor the
kind of line break matters.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_HEADER: Final = re.compile(r"\[\[ ## (\w+) ## \]\]")
_OPENING: Final = "[[ ## "
_CLOSING: Final = " ## ]]"


class ChatSections:
    r"""A parser that cuts a completion into pieces of its fields.

    It replaces ``dspy.streaming.StreamListener``, which ends a value at any ``[[``, and returns nothing if a field
    arrives in one chunk.

    Args:
        names: The fields whose text is returned.

    >>> sections = ChatSections({"answer"})
    >>> sections.receive("[[ ## answer ##")
    []
    >>> sections.receive(" ]]\nLis"), sections.receive("bon\n\n[[ ## completed ## ]]")
    ([('answer', 'Lis')], [('answer', 'bon')])
    """

    def __init__(self, names: Collection[str]) -> None:
        self._missing = set(names)
        self._current: str | None = None
        # Text that may still become a header, or a line break of two characters.
        self._undecided = ""
        # White space that belongs to the value only if more of the value follows.
        self._held = ""
        self._is_begun = False
        self._is_within_line = False
        self._is_header_line = False

    def receive(self, text: str) -> list[tuple[str, str]]:
        """Return the pieces that ``text`` completes, each with the name of its field; no piece is empty."""
        pieces: list[tuple[str, str]] = []
        lines = (self._undecided + text).splitlines(keepends=True)
        self._undecided = ""
        for line in lines:
            content = line.splitlines()[0]
            # The "\n" of "\r\n" may be in the next chunk.
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
        """Return the pieces that the end of the completion completes."""
        pieces: list[tuple[str, str]] = []
        for content in self._undecided.splitlines():
            self._receive_part(content, pieces)
        self._undecided = ""
        self._current = None
        self._missing.clear()
        return pieces

    def _receive_part(self, content: str, pieces: list[tuple[str, str]]) -> None:
        """Process a line, or a part of one that needs no further cutting."""
        # As in the adapter: the offset of the header's end, found in the stripped line, is applied to the whole line.
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
            # The adapter strips text on the header's line by itself.
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
    """Return whether a line that begins with ``content`` may still begin with a header."""
    begun = content.lstrip()
    if _OPENING.startswith(begun):
        return True
    if not begun.startswith(_OPENING) or _HEADER.match(begun):
        return False
    name, space, rest = begun[len(_OPENING) :].partition(" ")
    return re.fullmatch(r"\w+", name) is not None and _CLOSING.startswith(space + rest)
