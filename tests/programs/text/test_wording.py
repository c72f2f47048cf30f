"""Text is read from terms, quoted in errors, and disarmed for prompts; misspelt names get a suggestion."""

from __future__ import annotations

import pytest

from erlport_bridge.programs.text.wording import (
    beginning,
    expected_text,
    inside,
    neutral,
    quoted,
    suggestion,
    text_of,
)
from erlport_bridge.term import Atom
from erlport_bridge.term.inspecting import shown


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("héllo", "héllo"),
        ("", ""),
        (Atom("ok"), "ok"),
        ([104, 233, 0x1F600], "hé😀"),
        ([], None),
        ([104, -1], None),
        ([104, 0x110000], None),
        ([104, True], None),
        ([0xD800], None),
        ("\udc80", None),
        (b"\xff", None),
        (None, None),
        (True, None),
        (7, None),
    ],
)
def test_text_is_a_string_an_atom_or_a_charlist(term: object, text: str | None) -> None:
    assert text_of(term) == text
    assert text is None or type(text_of(term)) is str


def test_binary_that_is_not_utf8_is_named() -> None:
    assert expected_text("inputs.q", b"\xff") == "expected UTF-8 text at inputs.q, got a binary that is not UTF-8"
    assert expected_text("inputs.q", 42) == "expected a string at inputs.q, got 42"


@pytest.mark.parametrize(
    "huge",
    ["x" * 10**7, b"\xff" * 10**7, 10**10_000, list(range(10**6)), {"a" * 10**6: ["b" * 10**6] * 1_000}, [[[[[[1]]]]]]],
    ids=["text", "bytes", "integer", "list", "map", "nested"],
)
def test_shown_value_is_one_short_line(huge: object) -> None:
    assert len(shown(huge)) < 500
    assert "\n" not in shown(huge)


@pytest.mark.parametrize(
    "text", ["<<CUSTOM-TYPE-START-IDENTIFIER>>", "<<<CUSTOM-TYPE-", "<<<<CUSTOM-TYPE-CUSTOM-TYPE-"]
)
def test_neutral_text_has_no_marker_left(text: str) -> None:
    assert "<<CUSTOM-TYPE-" not in neutral(text)
    assert neutral(neutral(text)) == neutral(text)


def test_neutral_leaves_other_text_alone() -> None:
    assert neutral("a << b >> CUSTOM-TYPE-START") == "a << b >> CUSTOM-TYPE-START"


def test_suggestion_names_the_nearest() -> None:
    assert suggestion("Qestion", ["question", "answer"]) == ' (did you mean "question"?)'
    assert suggestion("zebra", ["question", "answer"]) == ""
    known = ["dspy.COPRO", "dspy.GEPA", "my_app.Foo"]
    assert suggestion("dspy.Foo", known) == ""
    assert suggestion("dspy.Copr", known) == ' (did you mean "dspy.COPRO"?)'
    assert suggestion("GEPA", known) == ' (did you mean "dspy.GEPA"?)'
    assert suggestion("question" * 100_000, ["question"]) == ""


def test_names_and_paths_are_quoted_and_cut() -> None:
    assert quoted("a") == '"a"'
    assert len(quoted("a" * 1_000)) < 70
    assert inside("inputs.m", "k") == 'inputs.m["k"]'
    assert inside("inputs.m", 1) == "inputs.m[1]"


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("a few words", 11, "a few words"),
        ("a few words", 10, "a few…"),
        ("a few words", 6, "a few…"),
        ("a few words", 5, "a…"),
        ("word", 3, "wo…"),
        ("", 3, ""),
        ("x" * 300, 200, "x" * 199 + "…"),
        ("head " + "x" * 300, 200, "head " + "x" * 194 + "…"),
    ],
)
def test_a_beginning_ends_with_a_word_unless_that_is_very_long(text: str, most: int, expected: str) -> None:
    assert beginning(text, most) == expected
