"""Reading text takes a time that is linear in its length, whatever a caller or a model writes.

Each text below once took quadratic time or worse in one of the readers: minutes for 64 kB.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from erlport_bridge.programs.text import chat_text, dates, indented_below, numbers, sentences, without_headers, words
from erlport_bridge.programs.text.xml_text import document, elements_of, text_of_content, without_tags
from erlport_bridge.programs.values import answer_json
from erlport_bridge.programs.values.answers import read_json, read_text

_NAMES = chat_text.Names.of(["answer"], ["question"])
_CHARACTERS = 64_000
# In CPU time. A quadratic reader takes 8 s and more, a linear one below 0.1 s.
_MOST_S = 2.0

_REPEATED = (
    *("[[ ## answer ## ]] ", "**[[ ## answer ## ]]**", "[[ ## ", "[[", "```\n", "```json\n", "```", "``` ", "`", " "),
    *("\n", "\n\n", "\n ", "\n>", "\t", "*", "#", "_", "<answer>", "</answer>", "<answer ", "<answer>x</answer>", "<"),
    *("< ", "</ ", "&#1;", "<![CDATA[", "]]>", "<think>", "{", "[", '{"a":', "[1,", "(", "((1,", "'", '"', "\\", "1"),
    *("1_000", "-", "a b ", "answer: ", "Literal[", "\r", "\u2028", "1.", "? "),
)
_TEXTS = {
    **{f"{part!r} repeated": part * (_CHARACTERS // len(part)) for part in _REPEATED},
    "spaces behind a fence": "```" + " \t" * (_CHARACTERS // 2) + "x",
    "spaces behind <": "<" + " " * _CHARACTERS,
    "spaces behind [[": "[[" + " " * _CHARACTERS,
    "spaces before x": " " * _CHARACTERS + "x",
    "line breaks before x": "\n" * _CHARACTERS + "x",
    "underscores before x": "\n" + "_" * _CHARACTERS + "x",
    "a block that does not end": "```json\n" + "\nx" * (_CHARACTERS // 2),
    "start tags and one end": "<answer>" * (_CHARACTERS // 8) + "</answer>",
    "numbers behind brackets": "[" * 200 + "1, " * (_CHARACTERS // 3),
}


def _document(text: str) -> str:
    return document(elements_of(f"<answer>{text}</answer>", ["answer"]), ["answer", "item"])


def _prose(text: str) -> object:
    return list(answer_json.values_in("x " + text))


_READERS: tuple[Callable[[str], object], ...] = (
    lambda text: chat_text.fields_of(text, _NAMES),
    lambda text: elements_of(text, ["answer"]),
    _document,
    text_of_content,
    lambda text: without_tags(text, ["answer"]),
    lambda text: indented_below(text, ["answer"]),
    lambda text: indented_below(text, None),
    without_headers,
    answer_json.exact,
    _prose,
    lambda text: read_text(f"x{text}", int),
    lambda text: read_json(f"x{text}", int | bool),
    sentences,
    words,
    numbers,
    dates,
)
_READER_NAMES = (
    *("markers", "elements", "document", "content", "tags", "lines of fields", "lines of any field", "headers"),
    *("JSON", "prose", "integer", "union", "sentences", "words", "numbers", "dates"),
)


@pytest.mark.parametrize("read", _READERS, ids=_READER_NAMES)
def test_reading_takes_linear_time(read: Callable[[str], object]) -> None:
    for what, text in _TEXTS.items():
        started_at = time.thread_time()
        with contextlib.suppress(ValueError):  # the text is no value of the type
            read(text)
        taken_s = time.thread_time() - started_at
        assert taken_s < _MOST_S, what
