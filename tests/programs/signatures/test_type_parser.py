"""Types of fields: grammar, canonical text, and limits."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any, Literal, Optional, Union

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures.type_parser import (
    KNOWN_TYPES,
    MAX_TYPE_DEPTH,
    MAX_TYPE_MEMBERS,
    TokenReader,
    parse_type,
)


def parsed(text: str) -> tuple[str, Any]:
    reader = TokenReader(text, "signature")
    result = parse_type(reader, "a")
    assert reader.next.kind == "end"
    return result.text, result.annotation


@pytest.mark.parametrize(
    ("text", "canonical", "annotation"),
    [
        ("str", "str", str),
        ("string", "str", str),
        ("integer", "int", int),
        ("boolean", "bool", bool),
        ("float", "float", float),
        ("None", "None", type(None)),
        ("Any", "Any", Any),
        ("typing.Any", "Any", Any),
        ("datetime", "datetime", datetime.datetime),
        ("datetime.date", "date", datetime.date),
        ("time", "time", datetime.time),
        ("Decimal", "Decimal", Decimal),
        ("list", "list", list),
        ("list[str]", "list[str]", list[str]),
        ("List[str]", "list[str]", list[str]),
        ("set[int]", "set[int]", set[int]),
        ("dict[str,list[int]]", "dict[str, list[int]]", dict[str, list[int]]),
        ("tuple[int, str]", "tuple[int, str]", tuple[int, str]),
        ("tuple[int]", "tuple[int]", tuple[int]),
        ("tuple[int, ...]", "tuple[int, ...]", tuple[int, ...]),
        ("Optional[int]", "Optional[int]", Optional[int]),  # noqa: UP045
        ("int|None", "int | None", Optional[int]),  # noqa: UP045
        ("Union[int, list[str], None]", "Union[int, list[str], None]", Union[int, list[str], None]),  # noqa: UP007
        (
            "Literal['a', \"b\", 1, -2, True, None]",
            'Literal["a", "b", 1, -2, True, None]',
            Optional[Literal["a", "b", 1, -2, True]],  # noqa: UP045
        ),
        (r"""Literal['it\'s "x"\\']""", r"""Literal["it's \"x\"\\"]""", Literal['it\'s "x"\\']),
        ("Literal['a -> b', 'c, d: [']", 'Literal["a -> b", "c, d: ["]', Literal["a -> b", "c, d: ["]),
        ("Image", "dspy.Image", dspy.Image),
        ("dspy.Image", "dspy.Image", dspy.Image),
        ("list[Image]", "list[dspy.Image]", list[dspy.Image]),
        ("dspy.Code", "dspy.Code", dspy.Code),
        ("ToolCalls", "dspy.ToolCalls", dspy.ToolCalls),
    ],
)
def test_text_gives_type_and_canonical_text(text: str, canonical: str, annotation: Any) -> None:
    assert parsed(text) == (canonical, annotation)
    assert parsed(canonical) == (canonical, annotation)


def test_code_knows_its_language() -> None:
    text, annotation = parsed("Code['python']")
    assert text == 'dspy.Code["python"]'
    assert issubclass(annotation, dspy.Code)
    assert annotation.language == "python"
    assert parsed("dspy.Code[python]")[1] is annotation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strr", 'unknown type "strr" of field "a" at character 0 of signature (did you mean "str"?)'),
        ("Iamge", 'did you mean "Image"?'),
        ("Zebra", "known types: str, int, float"),
        ("os.PathLike", 'unknown type "os.PathLike"'),
        ("dspy.LM", 'unknown type "dspy.LM"'),
        ("typing.NoReturn", "unknown type"),
        ("str.join", 'unknown type "str.join"'),
        ("list[str", 'expected "," or "]", got the end of the text at character 8'),
        ("list[]", 'expected a type of field "a", got "]" at character 5'),
        ("list[int, str]", "list of 2 types instead of 1"),
        ("dict[str]", "dict of 1 types instead of 2"),
        ("dict[list[int], str]", "cannot be a key of a dict"),
        ("set[dict]", "cannot be a key of a dict or an element of a set"),
        ("set[int | list]", "cannot be a key of a dict or an element of a set"),
        ("int[str]", "a type in brackets behind int, which takes none"),
        ("Optional", "Optional without its types in brackets"),
        ("Optional[int, str]", "Optional of 2 types instead of 1"),
        ("Literal", "Literal without its types in brackets"),
        ("Literal[]", "expected a string in quotes, an integer, True, False or None"),
        ("Literal[a]", 'expected a string in quotes, an integer, True, False or None, got "a"'),
        ("Literal[1.5]", 'expected a string in quotes, an integer, True, False or None, got "1.5"'),
        ("Literal[" + "9" * 5_000 + "]", "an integer of more than 19 digits"),
        (r"Literal['\x41']", r'unknown escape "\\x" in a string'),
        ("Literal['a", "unterminated string"),
        ("tuple[..., int]", '"..." that does not stand behind exactly one type'),
        ("tuple[...]", '"..." that does not stand behind exactly one type'),
        ("tuple[int, ..., ...]", '"..." that does not stand behind exactly one type'),
        ("list[...]", "expected a type"),
        ("int |", 'expected a type of field "a", got the end of the text'),
        ("| int", "expected a type"),
        ("Code['a b']", 'a language of dspy.Code that is no name: "a b"'),
        ("Code[1]", 'expected a language such as "python"'),
        ("dspy.", "expected a name behind"),
        ("$type", 'unexpected character "$" at character 0'),
        ("'str'", "expected a type"),
        ("list(int)", 'expected "=" behind int, got ")"'),
        ("int(ge=)", "expected a string in quotes, an integer"),
        ("int(ge=0", 'expected "," or ")"'),
        ("int(ge=0, ge=1)", "ge twice"),
        (
            "int(max_length=3)",
            "int, which takes no max_length (did you mean le?); it takes gt, ge, lt, le, multiple_of",
        ),
        ("bool(ge=1)", "bool, which takes no ge"),
        ("float(ge=True)", "takes a number as ge"),
        ("str(max_length=-1)", "takes a length as max_length"),
        ('str(pattern="(")', "takes a regular expression as pattern"),
        ("str(desc=4)", "a description that is no text"),
        ("{a: int, a: str}", 'the field "a" twice in an object'),
        ("{a: int", 'expected "," or "}"'),
        ("{_a: int}", "starts with an underscore"),
        ("{model_x: int}", "Pydantic"),
        ("{}", "expected the name of a field of an object"),
    ],
)
def test_malformed_type_is_an_error_that_says_where(text: str, message: str) -> None:
    with pytest.raises(OperationError) as raised:
        parsed(text)
    assert message in raised.value.message
    assert raised.value.kind == "signature"


def test_nesting_has_a_limit() -> None:
    def nested(depth: int) -> str:
        return "list[" * (depth - 1) + "str" + "]" * (depth - 1)

    assert parsed(nested(MAX_TYPE_DEPTH))[0] == nested(MAX_TYPE_DEPTH)
    for depth in (MAX_TYPE_DEPTH + 1, 10_000):
        with pytest.raises(OperationError, match="nests deeper than 20 levels"):
            parsed(nested(depth))


@pytest.mark.parametrize("shape", ["Literal[{}]", "tuple[{}]", "Union[{}]"])
def test_number_of_members_has_a_limit(shape: str) -> None:
    member = "1" if shape.startswith("Literal") else "int"
    parsed(shape.format(", ".join([member] * MAX_TYPE_MEMBERS)))
    with pytest.raises(OperationError, match="more than 256 members"):
        parsed(shape.format(", ".join([member] * (MAX_TYPE_MEMBERS + 1))))
    with pytest.raises(OperationError, match="more than 256 members"):
        parsed(" | ".join(["int"] * (MAX_TYPE_MEMBERS + 1)))


_CHOICES = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(-(10**18), 10**18),
    st.booleans(),
    st.none(),
)


def _literal(choices: list[Any]) -> str:
    # Written with single quotes, which is not the canonical form.
    def choice_text(choice: Any) -> str:
        if not isinstance(choice, str):
            return repr(choice)
        return "'" + choice.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return f"Literal[{','.join(map(choice_text, choices))}]"


_KEYS = st.sampled_from(["str", "int", "date", "Literal[1, 2]"])
TYPE_TEXTS = st.recursive(
    st.sampled_from([*KNOWN_TYPES, "string", "Image", "dspy.Code['java']"])
    | st.lists(_CHOICES, min_size=1, max_size=4).map(_literal),
    lambda inner: st.one_of(
        inner.map("list[{}]".format),
        inner.map("Optional[{}]".format),
        inner.map("tuple[{}, ...]".format),
        st.tuples(_KEYS, inner).map(lambda pair: "dict[{},{}]".format(*pair)),
        st.lists(inner, min_size=1, max_size=3).map(lambda members: f"Union[{', '.join(members)}]"),
        st.lists(inner, min_size=2, max_size=3).map(" | ".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda members: f"tuple[{','.join(members)}]"),
    ),
    max_leaves=6,
)


@given(TYPE_TEXTS)
def test_canonical_text_parses_to_the_same_type(text: str) -> None:
    canonical, annotation = parsed(text)
    assert parsed(canonical) == (canonical, annotation)


@given(st.text(alphabet="abLit[]|,.:'\"\\->=*/ 0123-listrneOpUd", max_size=40))
def test_any_text_gives_a_type_or_an_operation_error(text: str) -> None:
    try:
        canonical, annotation, *_settings = parse_type(TokenReader(text, "signature"), "a")
    except OperationError:
        return
    assert parsed(canonical) == (canonical, annotation)
