"""Split a completion into its fields while the model writes it, in the format of DSPy's ``ChatAdapter``.

The fields are exactly those that the adapter finds in the whole text, see :mod:`.programs.text.chat_text`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from erlport_bridge.programs.text import chat_text
from erlport_bridge.programs.text.chat_text import AROUND_MARKS, LINE_MARKS, SPACE, Names

_MARKS: Final = AROUND_MARKS + LINE_MARKS


class ChatSections:
    r"""A parser that cuts a completion into pieces of its fields.

    It replaces ``dspy.streaming.StreamListener``, which ends a value at any ``[[``, and returns nothing if a field
    arrives in one chunk.

    What a marker within a line, or among marks of Markdown, means depends on what follows, and what the end of a code
    block means on where the block began. From such a marker on, :meth:`receive` returns nothing, and :meth:`end`
    returns the rest.

    Args:
        shown: The fields whose text is returned.
        names: All fields of the signature.

    >>> sections = ChatSections({"answer"}, Names.of(["answer"]))
    >>> sections.receive("[[ ## answer ##")
    []
    >>> sections.receive(" ]]\nLis"), sections.receive("bon\n\n[[ ## completed ## ]]")
    ([('answer', 'Lis')], [('answer', 'bon')])
    """

    def __init__(self, shown: Collection[str], names: Names) -> None:
        self._names = names
        self._markers = chat_text.markers(names)
        self._shown = frozenset(shown)
        # The whole text, and how many characters of each field have been returned.
        self._received: list[str] = []
        self._returned: dict[str, int] = {}
        # A "\r" at the end of a piece, whose "\n" may be in the next one.
        self._line_end = ""
        # Text that may still become a marker.
        self._undecided = ""
        self._is_at_line_start = True
        self._is_stopped = False
        self._began: set[str] = set()
        self._current: str | None = None
        # White space that belongs to the value only if more of the value follows; an indented first line with its text.
        self._held = ""
        self._is_begun = False
        self._is_beside_marker = False

    def receive(self, text: str) -> list[tuple[str, str]]:
        """Return the pieces that ``text`` completes, each with the name of its field; no piece is empty."""
        self._received.append(text)
        pieces: list[tuple[str, str]] = []
        if self._is_stopped:
            return pieces
        text = self._line_end + text
        self._line_end = "\r" if text.endswith("\r") else ""
        text = self._undecided + chat_text.with_plain_lines(text.removesuffix("\r"))
        position = 0
        for marker, name in self._markers.find(text):
            before = text[position : marker.start()]
            marks = self._marks_size(before)
            self._pass(before[: len(before) - marks], pieces)
            position = marker.end()
            if marks:
                self._is_stopped = True
                return pieces
            if not self._began and chat_text.opens_block(self._text_before(marker[0])):
                # The end of the code block is no part of the last value.
                self._is_stopped = True
                return pieces
            if self._is_at_line_start:
                self._begin(name)
            elif name in self._began or not self._names.may_stand_within_line(name):
                self._pass(marker[0], pieces)
            else:
                self._is_stopped = True
                return pieces
        rest = text[position:]
        size = self._undecided_size(rest)
        self._pass(rest[: len(rest) - size], pieces)
        self._undecided = rest[len(rest) - size :]
        return pieces

    def end(self) -> list[tuple[str, str]]:
        """Return the pieces that the end of the completion completes."""
        fields = chat_text.fields_of("".join(self._received), self._names)
        rest = [(name, text[self._returned.get(name, 0) :]) for name, text in fields.items() if name in self._shown]
        self._is_stopped = True
        return [(name, text) for name, text in rest if text]

    def _text_before(self, marker: str) -> str:
        """Return the completion up to its first marker, which has just been received."""
        return chat_text.with_plain_lines("".join(self._received)).partition(marker)[0]

    def _undecided_size(self, text: str) -> int:
        """Return the length of the end of ``text`` that may be the beginning of a marker."""
        start = text.find("[", max(0, len(text) - self._markers.longest))
        while start >= 0 and not self._markers.may_begin(text[start:]):
            start = text.find("[", start + 1)
        before = text if start < 0 else text[:start]
        return len(text) - len(before) + self._marks_size(before)

    def _marks_size(self, text: str) -> int:
        """Return the length of the marks of Markdown at the end of ``text``, which may belong to a marker."""
        line = text.rpartition("\n")[2]
        if self._is_at_line_start or len(line) < len(text):
            start = line.lstrip(SPACE)
            if start and not start.strip(_MARKS + SPACE):
                return len(start)
        return len(text) - len(text.rstrip(AROUND_MARKS))

    def _begin(self, name: str) -> None:
        self._current = name if name in self._shown and name not in self._began else None
        self._began.add(name)
        self._held = ""
        self._is_begun = self._is_at_line_start = False
        self._is_beside_marker = True

    def _pass(self, text: str, pieces: list[tuple[str, str]]) -> None:
        """Process text that is no marker."""
        if not text:
            return
        line = text.rpartition("\n")[2]
        self._is_at_line_start = not line.strip(SPACE) and ("\n" in text or self._is_at_line_start)
        if self._current is None:
            return
        if self._is_beside_marker:
            beside, line_end, text = text.partition("\n")
            self._add(self._current, beside, pieces, has_indentation=False)
            if not line_end:
                return
            # White space at the end of the marker's line is left out.
            self._held = ""
            self._is_beside_marker = False
            text = line_end + text
        self._add(self._current, text, pieces, has_indentation=True)

    def _add(self, name: str, text: str, pieces: list[tuple[str, str]], *, has_indentation: bool) -> None:
        text = self._held + text
        if not self._is_begun:
            content = text.lstrip(SPACE)
            if has_indentation:
                value = text.rstrip(SPACE)
                start = len(text) - len(content)
                indented = value[value.rfind("\n", 0, start) + 1 :].lstrip("\ufeff")
                if len(indented) > len(value) - start and "\n" not in indented:
                    # Only the first of several lines keeps its indentation.
                    self._held = text
                    return
                content = indented + text[len(value) :] if "\n" in indented else content
            text = content
        given = text.rstrip(SPACE)
        self._held = text[len(given) :]
        if given:
            self._is_begun = True
            pieces.append((name, given))
            self._returned[name] = self._returned.get(name, 0) + len(given)
