r"""Find the fields of a completion in the format of DSPy's ``ChatAdapter``: ``[[ ## name ## ]]`` begins a field.

DSPy finds only markers at the start of a line, takes a marker of any name for one, and splits lines also at characters
that stand inside text. Here:

- A marker at the start of a line begins a field, or ends the field before it. The first field of a name counts.
- A marker within a line does the same, if no line starts with a marker of its name: models write
  ``7 [[ ## completed ## ]]``, and all fields in one line.
- Marks of Markdown around a marker, and before one that stands alone in its line, belong to the marker.
- A marker may lack the spaces that it has in the prompt, or have two, and have its name in other letter case, if only
  one field has that name: ``[[## Answer ##]]``.
- A marker whose name is no field of the signature is text.
- Lines end at ``\n``, ``\r\n`` or ``\r``, and are joined by ``\n``. Other characters, such as U+2028, are text.
- White space around a value is left out, but the first of several lines keeps its indentation.

Nothing here imports DSPy.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

#: The name in the marker after the last field.
COMPLETED: Final = "completed"
#: White space, and the byte order mark, which models copy from files.
SPACE: Final = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
#: Marks of Markdown before a line, and around a text.
LINE_MARKS: Final = "#>*-"
AROUND_MARKS: Final = "*_`~"
_AROUND: Final = re.compile(rf"[{AROUND_MARKS}]+\Z")
_MAX_MARKS: Final = 8
_FENCE: Final = re.compile(r"^[ \t]*```+[^`\n]*$", re.MULTILINE)
_LINE_END: Final = re.compile(r"\r\n?")
_MAX_SPACES: Final = 2
# The spaces of a marker: before and after each of its two `##`.
_SPACES_OF_MARKER: Final = 4
_LOWER: Final = {ord(upper): upper.lower() for upper in string.ascii_uppercase}


class Names(NamedTuple):
    """The names of a signature's fields, which markers can have.

    Attributes:
        outputs: The fields that the model writes.
        inputs: The other fields; a marker of one at the start of a line ends the field before it.
    """

    outputs: frozenset[str]
    inputs: frozenset[str]

    @classmethod
    def of(cls, outputs: Iterable[str], inputs: Iterable[str] = ()) -> Names:
        """Return the names of a signature."""
        return cls(frozenset(outputs), frozenset(inputs))

    def may_stand_within_line(self, name: str) -> bool:
        """Return whether a marker of this name may begin or end a field in the middle of a line."""
        return name in self.outputs or name == COMPLETED


class Markers:
    """The markers of a signature, in all the forms in which models write them.

    Attributes:
        longest: The maximum length of a marker.
    """

    def __init__(self, names: Names) -> None:
        by_folded: dict[str, list[str]] = {}
        for name in {*names.outputs, *names.inputs, COMPLETED}:
            by_folded.setdefault(_folded(name), []).append(name)
        #: The name of the field that a name in lower case means.
        self._by_folded = {folded: found[0] for folded, found in by_folded.items() if len(found) == 1}
        # Most markers are written as they were asked for.
        self._as_asked = {name: name for name in self._by_folded.values()}
        any_case = [f"(?ai:{re.escape(name)})" for name in self._by_folded.values()]
        one_case = [re.escape(name) for found in by_folded.values() if len(found) > 1 for name in found]
        known = "|".join(sorted([*any_case, *one_case], key=len, reverse=True))
        gap = f" {{0,{_MAX_SPACES}}}"
        self._pattern = re.compile(rf"\[\[{gap}##{gap}({known}){gap}##{gap}\]\]")
        whole = [f"[[##{folded}##]]" for folded in by_folded]
        self._beginnings = frozenset(marker[:size] for marker in whole for size in range(1, len(marker) + 1))
        self.longest = max(map(len, whole)) + _SPACES_OF_MARKER * _MAX_SPACES

    def find(self, text: str) -> Iterator[tuple[re.Match[str], str]]:
        """Return the markers in a text, each with the name of its field."""
        return (
            (match, self._as_asked.get(match[1]) or self._by_folded.get(_folded(match[1]), match[1]))
            for match in self._pattern.finditer(text)
        )

    def may_begin(self, text: str) -> bool:
        """Return whether a marker may begin with the text; this may be true of one with too many spaces."""
        return len(text) < self.longest and _folded(text.replace(" ", "")) in self._beginnings


@functools.lru_cache(maxsize=512)
def markers(names: Names) -> Markers:
    """Return the markers of a signature."""
    return Markers(names)


def _folded(text: str) -> str:
    return text.translate(_LOWER)


def fields_of(completion: str, names: Names) -> dict[str, str]:
    r"""Return the text of each output field of a completion; a field that is missing is left out.

    >>> fields_of("[[ ## answer ## ]] 7 [[ ## completed ## ]]", Names.of(["answer"]))
    {'answer': '7'}
    """
    text = with_plain_lines(completion)
    found: list[_Marker] = []
    line = 0
    for match, name in markers(names).find(text):
        after = found[-1].end if found else 0
        line_end = text.rfind("\n", after, match.start())
        # A line is read up to its first marker only: reading it again for each further one would take quadratic time.
        is_first = not found or line_end >= 0
        line = line_end + 1 if line_end >= 0 else line
        if match.start() == line:  # the usual form, with no marks before it
            found.append(_Marker(line, match.end(), name, starts_line=True))
        elif is_first:
            found.append(_marker(text, match, name, line, after))
        else:
            found.append(_marker_within(text, match, name, after))
    begins = [marker for marker in found if marker.starts_line]
    seen = {marker.name for marker in begins}
    for marker in found:
        if marker.name not in seen and names.may_stand_within_line(marker.name):
            seen.add(marker.name)
            begins.append(marker)
    begins.sort()
    ends = [*(marker.start for marker in begins), len(text)][1:]
    is_fenced = bool(begins) and opens_block(text[: begins[0].start])
    fields: dict[str, str] = {}
    for marker, end in zip(begins, ends, strict=True):
        if marker.name in names.outputs:
            value = value_of(text[marker.end : end])
            fields.setdefault(marker.name, _without_block_end(value) if is_fenced and end == len(text) else value)
    return fields


class _Marker(NamedTuple):
    """A marker with the marks of Markdown around it, such as ``**[[ ## name ## ]]**`` or ``### [[ ## name ## ]]``."""

    start: int
    end: int
    name: str
    starts_line: bool


def marks_before(text: str, start: int, after: int) -> str:
    """Return the marks of Markdown that may enclose the marker at ``start``; those before ``after`` are not its own."""
    around = _AROUND.search(text, max(after, start - _MAX_MARKS), start)
    return "" if around is None else around[0]


def _marker_within(text: str, match: re.Match[str], name: str, after: int) -> _Marker:
    """Return a marker that follows another one in its line, which ends at ``after``."""
    start, end = match.span()
    around = marks_before(text, start, after)
    if around and text.startswith(around, end):
        start, end = start - len(around), end + len(around)
    return _Marker(start, end, name, starts_line=False)


def _marker(text: str, match: re.Match[str], name: str, line: int, after: int) -> _Marker:
    """Return the first marker of the line that starts at ``line``."""
    start, end, _, _ = _marker_within(text, match, name, after)
    before = text[line:start].strip(SPACE)
    if before.strip(LINE_MARKS) or (before == "" and start == match.start()):
        return _Marker(start, end, name, starts_line=not before)
    # A marked name with text beside it is more likely mentioned.
    line_end = text.find("\n", end)
    if text[end : len(text) if line_end < 0 else line_end].strip(SPACE):
        return _Marker(start, end, name, starts_line=False)
    return _Marker(line, end, name, starts_line=True)


def opens_block(text: str) -> bool:
    """Return whether a code block of Markdown is open at the end of a text: the whole completion stands in one."""
    return "```" in text and len(_FENCE.findall(text)) % 2 == 1


def _without_block_end(value: str) -> str:
    """Return a value without the end of the code block that began before its marker."""
    return value.rpartition("\n")[0].rstrip(SPACE) if opens_block(value) and value.endswith("```") else value


def with_plain_lines(text: str) -> str:
    r"""Return a text whose lines all end with ``\n``."""
    return _LINE_END.sub("\n", text) if "\r" in text else text


def value_of(text: str) -> str:
    """Return the value in the text between a marker and the next one: without the white space around it."""
    first, _, rest = text.partition("\n")
    beside = first.strip(SPACE)
    if beside:
        # Text beside the marker has no indentation.
        return f"{beside}\n{rest}".rstrip(SPACE)
    value = rest.rstrip(SPACE)
    start = len(value) - len(value.lstrip(SPACE))
    indented = value[value.rfind("\n", 0, start) + 1 :].lstrip("\ufeff")
    return indented if "\n" in indented else value[start:]
