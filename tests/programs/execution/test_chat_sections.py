"""The pieces of a streamed completion are what the adapter reads in the whole completion."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.programs.execution.chat_sections import ChatSections
from erlport_bridge.programs.text.chat_text import Names, fields_of
from tests.programs.text.test_chat_text import COMPLETIONS as NAMED

FIELDS = ("reasoning", "answer")
NAMES = Names.of([*FIELDS, "score"], ["question"])
PARTS = [
    *(
        "[[ ## reasoning ## ]]",
        "[[ ## answer ## ]]",
        "[[ ## score ## ]]",
        "[[ ## question ## ]]",
        "[[ ## completed ## ]]",
        "[[ ## other ## ]]",
        "[[##answer##]]",
        "[[  ## Reasoning ##  ]]",
        "[[   ## score ## ]]",
        "[[ ## ",
        "[[",
        " ## ]]",
    ),
    *("**", "*", "`", "### ", "- ", "> ", "_"),
    *("```\n", "\n```", "```py\n"),
    *("\n", "\n\n", "\r\n", "\r", "\x0b", "\u2028", "\ufeff", " ", "\t", "  ", "a", "word", "[1]", "[[2]]", "é", "]"),
]
COMPLETIONS = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)


def read(completion: str) -> dict[str, str]:
    """Return the streamed fields that are read in the whole completion; a field that is not found is empty."""
    found = fields_of(completion, NAMES)
    return {name: found.get(name, "") for name in FIELDS}


def cut(completion: str, sizes: list[int]) -> dict[str, str]:
    """Return the fields of a completion that arrives in pieces of these sizes, repeated until its end."""
    sections, fields, position = ChatSections(FIELDS, NAMES), dict.fromkeys(FIELDS, ""), 0
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
    assert cut(completion, sizes) == read(completion)


@pytest.mark.parametrize("completion", [completion for completion, _ in NAMED.values()], ids=NAMED)
def test_every_cut_of_a_completion_gives_the_same(completion: str) -> None:
    for at in range(len(completion) + 1):
        assert cut(completion, [at or 1, len(completion) + 1]) == read(completion)
        assert cut(completion, [at + 1]) == read(completion)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("[[ ## answer ## ]]\nsee [[1]] and [[ ## x", "see [[1]] and [[ ## x"),
        ("[[ ## answer ## ]] beside the header  \nand below\n\n[[ ## completed ## ]]", "beside the header\nand below"),
        ("[[ ## answer ## ]]\n\n one \r\n\r\n two\n\n[[ ## answer ## ]]\nagain", " one \n\n two"),
        ("no header", ""),
    ],
)
def test_a_value_may_hold_brackets_and_lines(completion: str, answer: str) -> None:
    assert [cut(completion, [size])["answer"] for size in (1, 2, 7, 1000)] == [answer] * 4


def test_text_is_returned_as_soon_as_it_cannot_be_a_header() -> None:
    sections = ChatSections(FIELDS, NAMES)
    texts = ["[[ ## answer ## ]]\n", "Lis", "bon [[ ", "is", "\n", "[[ ## comp"]
    assert [sections.receive(text) for text in texts] == [
        [],
        [("answer", "Lis")],
        [("answer", "bon")],
        [("answer", " [[ is")],
        [],
        [],
    ]


def test_text_before_a_marker_within_a_line_is_returned_at_once() -> None:
    sections = ChatSections(FIELDS, NAMES)
    assert sections.receive("[[ ## answer ## ]]\nLisbon [[ ## completed ## ]] more") == [("answer", "Lisbon")]
    assert (sections.receive(" and more"), sections.end()) == ([], [])


def test_a_long_answer_is_not_searched_again_for_each_piece() -> None:
    sections = ChatSections(FIELDS, NAMES)
    sections.receive("[[ ## answer ## ]]\n")
    for _ in range(20_000):
        sections.receive("some [words]")
    assert len(sections._undecided) < 20


R, A, C = "[[ ## reasoning ## ]]", "[[ ## answer ## ]]", "[[ ## completed ## ]]"


@pytest.mark.parametrize(
    ("texts", "pieces"),
    [
        # The marker has been mentioned, as a line starts with another one of its name.
        (
            (f"{R}\nNow {A}", " follows.\n", A, "\n7"),
            [[("reasoning", "Now")], [], [("reasoning", f" {A} follows.")], [("answer", "7")]],
        ),
        # What a marker within a line means is not known yet, but what the next line is.
        (
            (f"{R} why {C} or", f" not\n{A}\nLis", "bon"),
            [[("reasoning", "why")], [("answer", "Lis")], [("answer", "bon")]],
        ),
        ((f"Here it is: {R} why", f"\n{A} Lis", "bon"), [[], [("answer", "Lis")], [("answer", "bon")]]),
        # Marks of Markdown belong to a marker if its line has nothing else.
        (
            (f"**{R}*", "*\nwh", f"y\n\n### {A}", "\n", "Lis", f"bon\n**{C}**"),
            [[], [("reasoning", "wh")], [("reasoning", "y")], [], [("answer", "Lis")], [("answer", "bon")]],
        ),
        ((f"{R}\nby **{A}", " and", "**"), [[("reasoning", "by")], [("reasoning", " **")], []]),
        (
            (f"{R}\n- {A} is", " first\n", f"{A} 7"),
            [[("reasoning", "-")], [], [("reasoning", f" {A} is first"), ("answer", "7")]],
        ),
        # The completion stands in a code block, whose end is no part of the value.
        (
            (f"```\n{A}\nLis", "bon", "\nPorto", "\n``", "`"),
            [[("answer", "Lis")], [("answer", "bon")], [("answer", "\nPorto")], [], []],
        ),
        (
            (f"```\n{A}\n", "```py", "\nx", "\ny", "\n```", "\n"),
            [[], [], [("answer", "```py")], [("answer", "\nx")], [], [("answer", "\ny")]],
        ),
    ],
)
def test_text_after_a_marker_is_returned_as_soon_as_it_is_certain(
    texts: tuple[str, ...], pieces: list[list[tuple[str, str]]]
) -> None:
    """From such a marker on, all text came at the end."""
    sections = ChatSections(FIELDS, NAMES)
    received = [sections.receive(text) for text in texts]
    assert received == pieces
    fields = dict.fromkeys(FIELDS, "")
    for name, text in [*(piece for some in received for piece in some), *sections.end()]:
        fields[name] += text
    assert fields == read("".join(texts))


def test_text_that_waits_for_the_end_of_its_line_is_bounded() -> None:
    sections = ChatSections(FIELDS, NAMES)
    sections.receive(f"{R}\n**{A}**")
    for _ in range(10_000):
        sections.receive("  ")
    assert len(sections._undecided) < 5_000
    assert (sections.receive("\n7"), sections.end()) == ([], [("answer", "7")])


def test_thousands_of_markers_at_once_take_no_quadratic_time() -> None:
    sections = ChatSections(FIELDS, NAMES)
    started_at = time.process_time()
    for text in (f"**{A}** " * 20_000, f"- {R}\n" * 20_000, f"{C} a {A}" * 20_000):
        sections.receive(text)
    assert time.process_time() - started_at < 5
