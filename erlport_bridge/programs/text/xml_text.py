"""Find the fields of a completion in the format of DSPy's ``XMLAdapter``: ``<name>value</name>``.

Models do not write XML: they write ``AT&T``, ``a < b`` and ``]]>`` as they are, text around the elements, and HTML
inside them. So only the tags of the known names are tags here, and all else is text.

Nothing here imports DSPy.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from erlport_bridge.programs.text.wording import any_of

_ENTITY: Final = re.compile(r"&(?:(lt|gt|amp|quot|apos)|#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6}));")
_ENTITIES: Final = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
_CDATA: Final = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)
_SURROGATES: Final = range(0xD800, 0xE000)
# Characters that XML 1.0 cannot hold, not even as a reference; a pattern of all others takes long to compile.
_NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Element(NamedTuple):
    """An element at the top of a completion: its name, and the text between its tags."""

    name: str
    content: str


@functools.lru_cache(maxsize=512)
def tags(names: frozenset[str]) -> re.Pattern[str]:
    """Return the pattern of the tags of these names."""
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.compile(rf"<(/?)({known})((?:\s[^<>]*?)?)(/?)>")


def elements_of(completion: str, names: Collection[str]) -> list[Element]:
    """Return the elements of these names at the top of a completion; an element without an end is left out.

    An element ends at its last end tag before the next element: a stray end tag in its text is text.

    >>> elements_of("<v>a < b, </v> too</v>", ["v"])
    [Element(name='v', content='a < b, </v> too')]
    """
    found = []
    all_tags = list(tags(frozenset(names)).finditer(completion))
    ended = _ended(all_tags)
    index = 0
    while index < len(all_tags):
        start = all_tags[index]
        index += 1
        if start[1]:
            continue
        if start[4]:
            found.append(Element(start[2], ""))
        elif index - 1 in ended:
            end = _end_of(all_tags, index, start[2])
            found.append(Element(start[2], completion[start.end() : all_tags[end].start()]))
            index = end + 1
    return found


def _ended(all_tags: list[re.Match[str]]) -> set[int]:
    """Return the indices of the start tags that have an end tag; to look for each one's would take quadratic time."""
    ended = set()
    begun: dict[str, list[int]] = {}
    for index, tag in enumerate(all_tags):
        if not tag[1] and not tag[4]:
            begun.setdefault(tag[2], []).append(index)
        elif tag[1] and begun.get(tag[2]):
            ended.add(begun[tag[2]].pop())
    return ended


def _end_of(all_tags: list[re.Match[str]], first: int, name: str) -> int:
    """Return the index of the end tag of the element whose content begins before the tag at index ``first``."""
    depth, end = 1, -1
    for index in range(first, len(all_tags)):
        tag = all_tags[index]
        if tag[2] != name:
            if end >= 0 and not tag[1]:
                break
        elif tag[1]:
            depth -= 1
            if depth <= 0:
                end = index
        elif not tag[4]:
            if end >= 0:
                break
            depth += 1
    return end


def text_of_content(content: str) -> str:
    """Return the text of an element: entities are read, and the marks of a CDATA section left out."""
    quoted = _CDATA.fullmatch(content)
    if quoted is not None:
        return quoted[1]
    return _ENTITY.sub(_character, content) if "&" in content else content


def _character(match: re.Match[str]) -> str:
    name, decimal, hexadecimal = match.groups()
    if name:
        return _ENTITIES[name]
    code = int(decimal) if decimal else int(hexadecimal, 16)
    return match[0] if code in _SURROGATES or not 0 < code <= 0x10FFFF else chr(code)


def document(elements: Iterable[Element], names: Collection[str]) -> str:
    """Return elements as XML in which only the tags of these names are tags."""
    return "".join(f"<{name}>{_xml(content, names)}</{name}>" for name, content in elements)


def _xml(content: str, names: Collection[str]) -> str:
    if "<" not in content:
        return escaped(text_of_content(content))
    if _CDATA.fullmatch(content):
        return escaped(text_of_content(content))
    parts, position = [], 0
    for tag in tags(frozenset(names)).finditer(content):
        parts += [escaped(text_of_content(content[position : tag.start()])), tag[0]]
        position = tag.end()
    return "".join([*parts, escaped(text_of_content(content[position:]))])


def escaped(text: str) -> str:
    """Return a text as XML holds it; characters that XML cannot hold are left out."""
    return _NO_XML.sub("", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def without_tags(text: str, names: Collection[str]) -> str:
    """Return a text in which no tag of these names is a tag, so that it cannot end its element or begin another.

    >>> without_tags("a < b </v><w>evil</w>", ["v", "w"])
    'a < b &lt;/v>&lt;w>evil&lt;/w>'
    """
    return _beginnings(frozenset(names)).sub("&lt;", text) if "<" in text else text


@functools.lru_cache(maxsize=512)
def _beginnings(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"<(?=\s*(?:/\s*)?(?:{any_of(names)})(?:[\s/>]|$))", re.IGNORECASE)
