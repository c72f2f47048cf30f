"""A type that Elixir writes as a term has the text of the same type."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures.spec import Field, SignatureSpec, parse_signature
from erlport_bridge.programs.signatures.type_terms import type_text
from erlport_bridge.term import Atom


def atom(name: str) -> Atom:
    return Atom(name)


STRING, INTEGER, FLOAT = atom("string"), atom("integer"), atom("float")


def options(**given: Any) -> list[tuple[Atom, Any]]:
    """Return a keyword list."""
    return [(atom(name), value) for name, value in given.items()]


def output(term: Any) -> Field:
    return parse_signature({"inputs": ["q"], "outputs": {atom("a"): term}}).outputs[0]


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (STRING, "str"),
        ([115, 116, 114], "str"),
        (atom("decimal"), "Decimal"),
        (atom("any"), "Any"),
        (atom("image"), "dspy.Image"),
        (atom("tool_calls"), "dspy.ToolCalls"),
        ((FLOAT, options(ge=0, le=1)), "float(ge=0, le=1)"),
        ((FLOAT, {atom("minimum"): 0.5}), "float(ge=0.5)"),
        ((STRING, options(max_length=80, pattern='^"a\\d"$')), 'str(max_length=80, pattern="^\\"a\\\\d\\"$")'),
        ((atom("list"), STRING), "list[str]"),
        ((atom("list"), STRING, options(min_length=1)), "list[str](min_length=1)"),
        ((atom("list"), (FLOAT, options(ge=0))), "list[float(ge=0)]"),
        ((atom("set"), INTEGER), "set[int]"),
        ((atom("map"), INTEGER), "dict[str, int]"),
        ((atom("map"), STRING, (atom("list"), INTEGER)), "dict[str, list[int]]"),
        ((atom("tuple"), [STRING, INTEGER]), "tuple[str, int]"),
        ((atom("enum"), ["a", atom("b"), 3, True, None]), 'Literal["a", "b", 3, True, None]'),
        ((STRING, options(enum=["x", "y"])), 'Literal["x", "y"]'),
        ((atom("optional"), INTEGER), "int | None"),
        ((INTEGER, options(optional=True)), "int | None"),
        ((atom("union"), [INTEGER, STRING]), "int | str"),
        ((atom("code"), "elixir"), 'dspy.Code["elixir"]'),
        ({atom("name"): STRING, "age": (INTEGER, options(ge=0))}, "{age: int(ge=0), name: str}"),
        ((atom("object"), {atom("type"): STRING}), "{type: str}"),
        ((atom("list"), {atom("name"): STRING}), "list[{name: str}]"),
        ({atom("age"): {atom("type"): INTEGER, atom("desc"): "in years"}}, '{age: int(desc="in years")}'),
        # As it comes in JSON, which has no tuple.
        (["list", "string"], "list[str]"),
        (["enum", ["a", "b"]], 'Literal["a", "b"]'),
    ],
)
def test_a_term_is_the_same_type_as_its_text(term: Any, text: str) -> None:
    field = output(term)
    assert field.type_text == text
    assert field == output(text)


def test_settings_of_a_type_belong_to_its_field() -> None:
    for described in (
        {atom("type"): FLOAT, atom("desc"): "how sure", atom("ge"): 0},
        (FLOAT, options(desc="how sure", ge=0)),
        'float(desc="how sure", ge=0)',
    ):
        field = output(described)
        assert (field.description, field.constraints, field.type_text) == ("how sure", (("ge", 0),), "float(ge=0)")
    assert output((STRING, "in words")).description == "in words"


def test_an_input_may_have_a_default_and_an_output_not() -> None:
    spec: SignatureSpec = parse_signature({"inputs": {atom("k"): (INTEGER, options(default=3))}, "outputs": ["a"]})
    assert spec.inputs[0].default == 3
    with pytest.raises(OperationError, match="only inputs have one"):
        output((INTEGER, options(default=3)))


@pytest.mark.parametrize(
    ("term", "message", "path"),
    [
        (4, "expected a type such as :string", "signature.outputs.a"),
        ((), "expected a type such as :string", "signature.outputs.a"),
        ((atom("list"),), "expected a type such as :string", "signature.outputs.a"),
        ((atom("list"), STRING, STRING), "expected 1 types in list", "signature.outputs.a"),
        ((atom("strng"), options(max_length=1)), 'unknown type "strng"', "signature.outputs.a"),
        ((STRING, options(maxlength=1)), "unknown option maxlength", "signature.outputs.a"),
        ((STRING, options(max_length={})), "expected text, a number", "signature.outputs.a.max_length"),
        ((INTEGER, options(max_length=1)), "takes no max_length", "signature.outputs.a"),
        ((atom("enum"), []), "expected choices", "signature.outputs.a"),
        ((atom("enum"), [1.5]), "expected a string in quotes, an integer", "signature.outputs.a"),
        ({atom("name"): 4}, "expected a type such as :string", "signature.outputs.a.name"),
        ({atom("p"): {atom("q"): (atom("list"), 4)}}, "expected a type such as :string", "signature.outputs.a.p.q"),
        ({4: STRING}, "expected a name as a key", "signature.outputs.a"),
        ({atom("desc"): 4}, "expected a string at signature.outputs.a.desc, got 4", "signature.outputs.a.desc"),
    ],
)
def test_a_wrong_term_is_an_error_with_its_path(term: Any, message: str, path: str) -> None:
    with pytest.raises(OperationError) as raised:
        output(term)
    assert message in raised.value.message
    assert raised.value.facts["path"] == path


def test_nesting_has_a_limit() -> None:
    term: Any = STRING
    for _ in range(100):
        term = (atom("list"), term)
    with pytest.raises(OperationError, match="nests"):
        type_text(term, "signature.outputs.a")
