"""The fields of a completion are found however a model sets its markers, and nothing inside them is changed."""

from __future__ import annotations

import pytest

from erlport_bridge.programs.text.chat_text import Names, fields_of

NAMES = Names.of(["reasoning", "answer"], ["question"])
A, R, C, Q = (f"[[ ## {name} ## ]]" for name in ("answer", "reasoning", "completed", "question"))

COMPLETIONS: dict[str, tuple[str, dict[str, str]]] = {
    "as asked": (f"{R}\nwhy\n\n{A}\n7\n\n{C}", {"reasoning": "why", "answer": "7"}),
    "a marker ends a line": (f"{A}\n7 {C}", {"answer": "7"}),
    "text behind the last marker": (f"{A}\n7 {C} Bye!", {"answer": "7"}),
    "all in one line": (f"{R} why {A} 7 {C}", {"reasoning": "why", "answer": "7"}),
    "no space": (f"{R}why{A}7{C}", {"reasoning": "why", "answer": "7"}),
    "a marker within a line of prose": (f"Here it is: {A} 7", {"answer": "7"}),
    "a field in another order within a line": (f"{A}\n7 {R} why", {"answer": "7", "reasoning": "why"}),
    "mentioned before it stands": (f"{R}\nNow {A} follows.\n{A}\n7", {"reasoning": f"Now {A} follows.", "answer": "7"}),
    "mentioned in itself": (f"{A}\nwrite {A} first\n{C}", {"answer": f"write {A} first"}),
    "the end is mentioned": (f"{A}\nwrite {C} last\n{C}", {"answer": f"write {C} last"}),
    "an input is mentioned": (f"{A}\nsee {Q} above", {"answer": f"see {Q} above"}),
    "a further turn": (f"{A}\n7\n\n{Q}\nNext?", {"answer": "7"}),
    "again": (f"{A}\n7\n\n{A}\n8", {"answer": "7"}),
    "another name": (
        f"{A}\n[[ ## usage ## ]]\nrun [[ ## it ## ]]\n{C}",
        {"answer": "[[ ## usage ## ]]\nrun [[ ## it ## ]]"},
    ),
    "a name that continues": (f"{A}\n[[ ## answers ## ]]", {"answer": "[[ ## answers ## ]]"}),
    "no spaces": ("[[##reasoning##]]\nwhy\n[[##answer##]]\n7\n[[##completed##]]", {"reasoning": "why", "answer": "7"}),
    "some spaces": ("[[## reasoning ##]]\nwhy\n[[  ##answer  ## ]]\n7", {"reasoning": "why", "answer": "7"}),
    "too many spaces": (f"{A}\n7 [[   ## reasoning ## ]]", {"answer": "7 [[   ## reasoning ## ]]"}),
    "in other letter case": (f"[[ ## Answer ## ]]\n7\n{C.upper()}", {"answer": "7"}),
    "another form": (f"{A}\n[[ answer ]] ## answer ##", {"answer": "[[ answer ]] ## answer ##"}),
    "a byte order mark": (f"\ufeff{A}\n\ufeff7\ufeff\n{C}", {"answer": "7"}),
    "a byte order mark before an indented line": (f"{A}\n\ufeff  a\n b", {"answer": "  a\n b"}),
    "line separators": (
        f"{A}\na\u2028b\u2029c\x85d\x0ce\x0bf\x1cg\n{C}",
        {"answer": "a\u2028b\u2029c\x85d\x0ce\x0bf\x1cg"},
    ),
    "a marker after a line separator": (f"{A}\n7\u2028{C}", {"answer": "7"}),
    "line ends of another system": (f"{A}\r\na\r\n\r\nb\r{C}", {"answer": "a\n\nb"}),
    "an indented first line": (f"{A}\n\n    if x:\n        y\n\n{C}", {"answer": "    if x:\n        y"}),
    "a tab before the first line": (f"{A}\n\ta\n\tb", {"answer": "\ta\n\tb"}),
    "one indented line": (f"{A}\n   7  \n{C}", {"answer": "7"}),
    "text beside the marker": (f"{A}   if x:  \n  y", {"answer": "if x:\n  y"}),
    "an indented marker": (f"{R}\nwhy\n   {A}\n7", {"reasoning": "why", "answer": "7"}),
    "in bold": (f"**{R}**\nwhy\n\n**{A}**\n7\n\n**{C}**", {"reasoning": "why", "answer": "7"}),
    "in bold within a line": (f"So **{A}** 7 **{C}**", {"answer": "7"}),
    "in bold with text beside it": (f"**{A}** 7", {"answer": "7"}),
    "as headings": (f"### {R}\nwhy\n### {A}\n7\n### {C}", {"reasoning": "why", "answer": "7"}),
    "as quotes of code": (f"`{A}`\n7\n`{C}`", {"answer": "7"}),
    "as a list": (f"- {R}\nwhy\n- **{A}**\n7", {"reasoning": "why", "answer": "7"}),
    "mentioned as code": (
        f"{A}\n`{A}` begins it, and **{R}** too\n- {A} is first\n{R}\nwhy",
        {"answer": f"`{A}` begins it, and **{R}** too\n- {A} is first", "reasoning": "why"},
    ),
    "marks of a value": (f"{A}\n**7**\n- a\n* b\n# c\n{C}", {"answer": "**7**\n- a\n* b\n# c"}),
    "marks that end a value": (f"{A}\na\n---\n{C}", {"answer": "a\n---"}),
    "in a code block": (f"```\n{A}\n7\n```", {"answer": "7"}),
    "in a code block with its end": (f"Sure:\n```text\n{A}\n7\n\n{C}\n```", {"answer": "7"}),
    "a code block in a code block": (f"```\n{A}\n```py\nx\n```\n```", {"answer": "```py\nx\n```"}),
    "a code block": (f"{A}\n```py\nx\n```", {"answer": "```py\nx\n```"}),
    "a code block before": (f"```py\nx\n```\n{A}\n```py\ny\n```", {"answer": "```py\ny\n```"}),
    "a code block that has no end": (f"```\n{A}\n```py\nx\n```", {"answer": "```py\nx\n```"}),
    "empty": (f"{A}\n\n{C}", {"answer": ""}),
    "nothing": ("no marker", {}),
}


def test_letter_case_counts_where_names_differ_in_nothing_else() -> None:
    names = Names.of(["answer", "Answer"])
    assert fields_of("[[ ## answer ## ]] a [[ ## Answer ## ]] b [[ ## ANSWER ## ]]", names) == {
        "answer": "a",
        "Answer": "b [[ ## ANSWER ## ]]",
    }


@pytest.mark.parametrize(("completion", "fields"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_fields_are_found(completion: str, fields: dict[str, str]) -> None:
    assert fields_of(completion, NAMES) == fields
