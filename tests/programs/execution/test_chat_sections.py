"""The pieces of a streamed completion are what DSPy's adapter reads in the whole completion."""

from __future__ import annotations

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.programs.execution.chat_sections import ChatSections

SIGNATURE = dspy.Signature("question -> reasoning, answer")
FIELDS = ("reasoning", "answer")
PARTS = [
    *(
        "[[ ## reasoning ## ]]",
        "[[ ## answer ## ]]",
        "[[ ## completed ## ]]",
        "[[ ## other ## ]]",
        "[[ ## ",
        "[[",
        " ## ]]",
    ),
    *("\n", "\r\n", "\r", "\x0b", "\u2028", " ", "\t", "  ", "a", "word", "[1]", "[[2]]", "é", "]"),
]
COMPLETIONS = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)


def read(completion: str) -> dict[str, str]:
    """Return the fields that the adapter reads; a field that it does not find is left out."""
    try:
        return dict(dspy.ChatAdapter().parse(SIGNATURE, completion))
    except dspy.utils.exceptions.AdapterParseError as error:
        return dict(error.parsed_result or {})


def cut(completion: str, sizes: list[int]) -> dict[str, str]:
    """Return the fields of a completion that arrives in pieces of these sizes, repeated until its end."""
    sections, fields, position = ChatSections(FIELDS), dict.fromkeys(FIELDS, ""), 0
    pieces = []
    while position < len(completion):
        for size in sizes:
            pieces += sections.receive(completion[position : position + size])
            position += size
    for name, text in [*pieces, *sections.end()]:
        assert text
        fields[name] += text
    return fields


@given(COMPLETIONS, st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_the_pieces_of_a_field_are_its_value_however_the_text_is_cut(completion: str, sizes: list[int]) -> None:
    assert cut(completion, sizes) == dict.fromkeys(FIELDS, "") | read(completion)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("[[ ## answer ## ]]\nsee [[1]] and [[ ## x", "see [[1]] and [[ ## x"),
        ("[[ ## answer ## ]] beside the header  \nand below\n\n[[ ## completed ## ]]", "beside the header\nand below"),
        ("[[ ## answer ## ]]\n\n  one \r\n\r\n two\n\n[[ ## answer ## ]]\nagain", "one \n\n two"),
        ("no header", ""),
    ],
)
def test_a_value_may_hold_brackets_and_lines(completion: str, answer: str) -> None:
    assert [cut(completion, [size])["answer"] for size in (1, 2, 7, 1000)] == [answer] * 4


def test_text_is_returned_as_soon_as_it_cannot_be_a_header() -> None:
    sections = ChatSections(FIELDS)
    texts = ["[[ ## answer ## ]]\n", "Lis", "bon [[ ", "is", "\n", "[[ ## comp"]
    assert [sections.receive(text) for text in texts] == [
        [],
        [("answer", "Lis")],
        [("answer", "bon [[")],
        [("answer", " is")],
        [],
        [],
    ]
