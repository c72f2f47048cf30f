"""Split a completion into its fields while the model writes it, in the format of DSPy's ``ChatAdapter``.

The fields are exactly those that the adapter finds in the whole text, see :mod:`.programs.text.chat_text`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple

from erlport_bridge.programs.text import chat_text
from erlport_bridge.programs.text.chat_text import AROUND_MARKS, LINE_MARKS, SPACE, Names

_MARKS: Final = AROUND_MARKS + LINE_MARKS
_SPACES: Final = re.compile(f"[{SPACE}]*")
#: How much text may wait for what follows it. It is searched again with each piece.
_MAX_UNDECIDED: Final = 4_096

#: Pieces of text, each with the name of its field.
Pieces = list[tuple[str, str]]


class ChatSections:
    r"""A parser that cuts a completion into pieces of its fields.

    It replaces ``dspy.streaming.StreamListener``, which ends a value at any ``[[``, and returns nothing if a field
    arrives in one chunk.

    A marker within a line may begin a field, or be mentioned in one: that is known when a line starts with a marker of
    its name, or at the end. Until then the text from it to the next line that starts with a marker is held.

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
        # Text that may still become a marker, or belong to one.
        self._undecided = ""
        self._is_at_line_start = True
        self._is_stopped = False
        # The names of the markers that have started lines.
        self._began: set[str] = set()
        self._section = _Section(None)
        # The sections that hold text from a marker within a line on, by the name in that marker.
        self._holding: dict[str, _Section] = {}
        self._preamble: list[str] = []
        self._is_fenced = False

    def receive(self, text: str) -> Pieces:
        """Return the pieces that ``text`` completes, each with the name of its field; no piece is empty."""
        self._received.append(text)
        if self._is_stopped:
            return []
        text = self._line_end + text
        self._line_end = "\r" if text.endswith("\r") else ""
        text = self._undecided + chat_text.with_plain_lines(text.removesuffix("\r"))
        pieces: Pieces = []
        position = 0
        for match, name in self._markers.find(text):
            marker = self._marker(text, match, position)
            if marker is None:
                before = text[position : match.start()]
                size = len(text) - match.start() + self._marks_size(before)
                break
            self._pass(text[position : marker.start], pieces)
            position = marker.end
            self._take(name, text[marker.start : marker.end], pieces, starts_line=marker.starts_line)
        else:
            size = self._undecided_size(text[position:])
        self._pass(text[position : len(text) - size], pieces)
        self._undecided = text[len(text) - size :]
        self._is_stopped = size > _MAX_UNDECIDED
        for name, given in pieces:
            self._returned[name] = self._returned.get(name, 0) + len(given)
        return pieces

    def end(self) -> Pieces:
        """Return the pieces that the end of the completion completes."""
        fields = chat_text.fields_of("".join(self._received), self._names)
        rest = [(name, text[self._returned.get(name, 0) :]) for name, text in fields.items() if name in self._shown]
        self._is_stopped = True
        return [(name, text) for name, text in rest if text]

    def _marker(self, text: str, match: re.Match[str], position: int) -> _Place | None:
        """Return the place of a marker with its marks of Markdown; ``None`` if that depends on text to come.

        Args:
            text: The text that is read, from which ``position`` characters have been passed.
            match: The marker.
            position: Where the text begins that may belong to the marker.
        """
        marks = chat_text.marks_before(text, match.start(), position)
        if not text.startswith(marks, match.end()):
            if marks.startswith(text[match.end() : match.end() + len(marks)]) and len(text) < match.end() + len(marks):
                return None
            marks = ""
        place = _Place(match.start() - len(marks), match.end() + len(marks), starts_line=False)
        line_end = text[position : match.start()].rfind("\n")
        if line_end < 0 and not self._is_at_line_start:
            return place
        line = position + line_end + 1
        beside = text[line : place.start].strip(SPACE)
        if beside.strip(LINE_MARKS):
            return place
        if not beside and not marks:
            return place._replace(starts_line=True)
        # A marked name with text beside it is more likely mentioned.
        spaces = _SPACES.match(text, place.end)
        if spaces is None or "\n" not in spaces[0]:
            return None if spaces is not None and spaces.end() == len(text) else place
        return place._replace(start=line, starts_line=True)

    def _take(self, name: str, marker: str, pieces: Pieces, *, starts_line: bool) -> None:
        """Process a marker with its marks."""
        if starts_line:
            self._note_block()
            self._section.close(pieces)
            if name in self._holding:
                self._holding.pop(name).take_back(name, pieces)
            is_first = name in self._shown and name not in self._began
            self._section = _Section(_Value(name) if is_first else None, is_fenced=self._is_fenced)
            self._began.add(name)
        elif name in self._began or name in self._holding or not self._names.may_stand_within_line(name):
            self._section.add(marker, pieces)
        else:
            self._note_block()
            self._section.hold(name, marker, pieces)
            self._holding[name] = self._section
        if not self._began:
            self._preamble.append(marker)
        self._is_at_line_start = False

    def _note_block(self) -> None:
        """Note whether a code block is open before the first marker, or before one that may be the first."""
        if not self._began:
            self._is_fenced = self._is_fenced or chat_text.opens_block("".join(self._preamble))

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

    def _pass(self, text: str, pieces: Pieces) -> None:
        """Process text that is no marker."""
        if not text:
            return
        line = text.rpartition("\n")[2]
        self._is_at_line_start = not line.strip(SPACE) and ("\n" in text or self._is_at_line_start)
        self._section.add(text, pieces)
        if not self._began:
            self._preamble.append(text)


class _Place(NamedTuple):
    """Where a marker is in a text, and whether it begins a field for certain."""

    start: int
    end: int
    starts_line: bool


class _Section:
    """The text from a marker that starts a line to the next one.

    Args:
        value: The value that the text is; ``None``: it is not returned.
        is_fenced: The completion may stand in a code block, whose end is no part of its last value.
    """

    def __init__(self, value: _Value | None, *, is_fenced: bool = False) -> None:
        self._value = value
        self._is_fenced = is_fenced
        # The last line of the value, if it may be the end of that block, or the white space at its end.
        self._last_line = ""
        self._is_within_line = False
        self._has_fence = False
        # The text from each marker within a line that may begin a field on, with the name in the marker.
        self._held: list[tuple[str, list[str]]] = []

    def add(self, text: str, pieces: Pieces) -> None:
        """Add text to the value, or to what is held."""
        if self._held:
            self._held[-1][1].append(text)
        elif self._value is not None:
            self._add(self._value, text, pieces)

    def hold(self, name: str, marker: str, pieces: Pieces) -> None:
        """Hold the text from this marker on."""
        # Whatever it means, the last value ends behind it.
        self.close(pieces)
        self._held.append((name, [marker]))

    def take_back(self, name: str, pieces: Pieces) -> None:
        """Add the text from the marker of this name on to what is before it, where the marker is mentioned."""
        index = next(index for index, (held, _) in enumerate(self._held) if held == name)
        _, texts = self._held.pop(index)
        if index > 0:
            self._held[index - 1][1].extend(texts)
        elif self._value is not None:
            pieces += self._value.add("".join(texts))

    def close(self, pieces: Pieces) -> None:
        """Say that the text is not the end of the completion."""
        self._is_fenced = False
        if self._value is not None:
            pieces += self._value.add(self._last_line)
        self._last_line = ""

    def _add(self, value: _Value, text: str, pieces: Pieces) -> None:
        if self._is_fenced:
            text = self._last_line + text
            content = text.rstrip(SPACE)
            line = content.rfind("\n") + 1
            self._has_fence = self._has_fence or "```" in content[:line]
            starts_line = line > 0 or not self._is_within_line
            if self._has_fence or (starts_line and content[line:].lstrip(SPACE).startswith("`")):
                size = max(line - 1, 0)
            else:
                size = len(content)
                self._is_within_line = self._is_within_line or size > 0
            text, self._last_line = text[:size], text[size:]
        pieces += value.add(text)


class _Value:
    """The value of a field, of which each piece is returned as soon as it is certain."""

    def __init__(self, name: str) -> None:
        self._name = name
        # White space that belongs to the value only if more of the value follows; an indented first line with its text.
        self._held = ""
        self._is_begun = False
        self._is_beside_marker = True

    def add(self, text: str) -> Pieces:
        """Return the pieces that ``text`` completes."""
        if not self._is_beside_marker:
            return self._added(text, has_indentation=True)
        beside, line_end, rest = text.partition("\n")
        pieces = self._added(beside, has_indentation=False)
        if not line_end:
            return pieces
        # White space at the end of the marker's line is left out.
        self._held = ""
        self._is_beside_marker = False
        return pieces + self._added(line_end + rest, has_indentation=True)

    def _added(self, text: str, *, has_indentation: bool) -> Pieces:
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
                    return []
                content = indented + text[len(value) :] if "\n" in indented else content
            text = content
        given = text.rstrip(SPACE)
        self._held = text[len(given) :]
        self._is_begun = self._is_begun or bool(given)
        return [(self._name, given)] if given else []
