"""Descriptions, defaults and constraints of optional and union fields, and of fields that may be left out."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.adapters import read_adapter
from erlport_bridge.programs.signatures import build_signature, parse_signature
from erlport_bridge.programs.values import input_values, plain
from erlport_bridge.term import Atom


def signature_of(field: Any, side: str = "inputs") -> Any:
    return parse_signature(
        {"inputs": ["q"], "outputs": ["a"], side: {"q": "string", "x": field} if side == "inputs" else {"x": field}}
    )


def value_of_missing(field: Any) -> Any:
    return input_values(signature_of(field), {"q": "?"})["x"]


def wrong(field: Any) -> OperationError:
    with pytest.raises(OperationError) as caught:
        signature_of(field)
    assert (caught.value.kind, caught.value.facts["path"]) == ("signature", "signature.inputs.x")
    return caught.value


OPTIONAL = ("optional", "integer")
UNION = ("union", ["string", "integer", "nil"])
STRINGS = ("list", "string")


@pytest.mark.parametrize("default", [["x"], {"a": ["x"]}])
def test_each_use_of_a_default_has_a_value_of_its_own(default: Any) -> None:
    signature = signature_of({"type": "any", "default": default})
    for _ in range(2):
        value = input_values(signature, {"q": "?"})["x"]
        assert value == default
        (value if isinstance(value, list) else value["a"]).append("changed")
    # Signatures are keys of the modules that calls share.
    assert hash(signature) == hash(signature_of({"type": "any", "default": default}))


def test_tuple_and_object_have_a_default() -> None:
    assert value_of_missing({"type": ("tuple", ["string", "integer"]), "default": ["a", 1]}) == ("a", 1)
    person = {"name": "string", "tags": {"type": STRINGS, "default": ["x"]}, "age": OPTIONAL}
    value = value_of_missing({"type": person, "default": {"name": "Ada"}})
    assert plain(value) == {"name": "Ada", "tags": ["x"], "age": None}


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        (STRINGS, [1]),
        (STRINGS, {"a": 1}),
        (STRINGS, "x"),
        (("list", "date"), ["tomorrow"]),
        (("tuple", ["string", "integer"]), ["a"]),
        (("map", "integer"), {"a": "1"}),
        (("map", "integer"), [1]),
        ({"a": "integer"}, {"b": 1}),
        ({"a": "integer"}, {}),
        ("string", []),
        ("integer", {"a": 1}),
        (STRINGS, [b"\xff"]),
        (("map", "integer"), {1: 1}),
        ("list[str](max_length=1)", ["a", "b"]),
        ("any", [[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]),
    ],
)
def test_compound_default_that_is_no_value_of_its_type_is_refused(type_: Any, default: Any) -> None:
    with pytest.raises(OperationError) as caught:
        signature_of({"type": type_, "default": default})
    assert caught.value.kind == "signature"
    assert caught.value.facts["path"].startswith("signature.inputs.x")


@pytest.mark.parametrize("text", ['list[str](default=["a"', "list[str](default=[,])", "dict[str, int](default={a: 1})"])
def test_compound_default_in_text_is_refused_where_it_is_wrong(text: str) -> None:
    assert "at character" in wrong(text).message


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ((OPTIONAL, [("default", 3)]), 3),
        ((OPTIONAL, [("default", None)]), None),
        ({"type": OPTIONAL, "default": 3}, 3),
        ({"type": "int | None", "default": 3}, 3),
        ({"type": "integer", "optional": True, "default": 3}, 3),
        ((UNION, [("default", "x")]), "x"),
        ((UNION, [("default", 7)]), 7),
        ("int(default=3) | None", 3),
        ("int | None(default=None)", None),
        ("None | int(default=3)", 3),
        ("Optional[int(default=3)]", 3),
        ("(int | str)(default=3)", 3),
        (("enum", ["a", None]), None),
        ((("enum", ["a", None]), [("default", "a")]), "a"),
        ((("enum", [1, 2]), [("default", 2)]), 2),
        (("date", [("default", "2024-01-01")]), datetime.date(2024, 1, 1)),
        (("decimal", [("default", "1.10")]), Decimal("1.10")),
        (("float", [("default", 1)]), 1.0),
        (("any", [("default", None)]), None),
        ((STRINGS, [("default", ["x"])]), ["x"]),
        ((*STRINGS, [("default", ["x"])]), ["x"]),
        ({"type": STRINGS, "default": ["x", "y"]}, ["x", "y"]),
        ({"type": STRINGS, "default": []}, []),
        ({"type": ("list", "integer"), "default": [72, 105]}, [72, 105]),
        ({"type": ("optional", STRINGS), "default": ["x"]}, ["x"]),
        ({"type": ("list", "date"), "default": ["2024-01-01"]}, [datetime.date(2024, 1, 1)]),
        ({"type": ("set", "string"), "default": ["a"]}, {"a"}),
        ({"type": ("map", "integer"), "default": {"a": 1}}, {"a": 1}),
        ({"type": ("map", "integer"), "default": [(Atom("a"), 1)]}, {"a": 1}),
        ({"type": ("map", STRINGS), "default": {"a": ["x"], "b": []}}, {"a": ["x"], "b": []}),
        ({"type": "any", "default": {"a": [1, None, True, 2.5, {"b": "c"}]}}, {"a": [1, None, True, 2.5, {"b": "c"}]}),
        ('list[str](default=["a", "b\\"c"])', ["a", 'b"c']),
        ('dict[str, list[int]](default={"a": [1, 2]})', {"a": [1, 2]}),
        (OPTIONAL, None),
        ("None", None),
    ],
)
def test_input_that_is_left_out_has_its_default(field: Any, default: Any) -> None:
    """The default of an optional field went to its last member, and was lost."""
    found = value_of_missing(field)
    assert (found, type(found)) == (default, type(default))
    # The same as a field of an object.
    value = input_values(
        parse_signature({"inputs": {"o": {"q": "string", "x": field}}, "outputs": ["a"]}), {"o": {"q": "?"}}
    )
    found = plain(value["o"])["x"]
    assert (found, type(found)) == (default, type(default))


@pytest.mark.parametrize(
    "field",
    [
        (("list", "string"), [("default", "x")]),
        ((("optional", ("list", "string"))), [("default", "x")]),
        ("integer", [("default", "three")]),
        ("integer", [("default", 1.5)]),
        ("integer", [("default", True)]),
        ("boolean", [("default", 1)]),
        ("string", [("default", 7)]),
        ("string", [("default", None)]),
        ("date", [("default", "tomorrow")]),
        ("date", [("default", 1999)]),
        ("decimal", [("default", "x")]),
        (("enum", ["a", "b"]), [("default", "c")]),
        (("enum", [1, 2]), [("default", True)]),
        (UNION, [("default", 1.5)]),
        ({"name": "string"}, [("default", "x")]),
        (("map", "string"), [("default", "x")]),
    ],
)
def test_default_that_is_no_value_of_its_type_is_refused(field: Any) -> None:
    assert "has the default" in wrong(field).message
    with pytest.raises(OperationError) as caught:
        signature_of({"inner": field})
    assert "has the default" in caught.value.message


@pytest.mark.parametrize(
    "field",
    [
        ("integer", [("ge", 5), ("default", 3)]),
        (OPTIONAL, [("ge", 5), ("default", 3)]),
        ("string", [("max_length", 2), ("default", "abc")]),
    ],
)
def test_default_that_breaks_a_constraint_is_refused(field: Any) -> None:
    assert "default" in wrong(field).message


@pytest.mark.parametrize(
    ("field", "text", "bad"),
    [
        ((OPTIONAL, [("ge", 1)]), "int(ge=1) | None", 0),
        ({"type": ("optional", "float"), "ge": 0, "le": 1}, "float(ge=0, le=1) | None", 2.0),
        ((UNION, [("max_length", 2)]), "str(max_length=2) | int | None", "abc"),
        ((("union", ["integer", "string"]), [("ge", 1), ("max_length", 2)]), "int(ge=1) | str(max_length=2)", "abc"),
        ("Optional[int](ge=1)", "Optional[int(ge=1)]", 0),
        ("(list[int] | int)(max_length=1)", "list[int](max_length=1) | int", [1, 2]),
        ("int(ge=1)(le=3)", None, None),
    ],
)
def test_constraint_of_a_union_holds_for_the_members_that_take_it(field: Any, text: str | None, bad: Any) -> None:
    if text is None:
        wrong(field)
        return
    spec = signature_of(field)
    assert spec.inputs[1].type_text == text
    assert signature_of(text).inputs[1].annotation == spec.inputs[1].annotation
    with pytest.raises(OperationError) as caught:
        input_values(spec, {"q": "?", "x": bad})
    assert (caught.value.kind, caught.value.facts["path"].startswith("inputs.x")) == ("input", True)


def test_constraint_that_no_member_takes_is_refused() -> None:
    assert (
        "int | None, which takes no max_length (did you mean le?); it takes gt, ge"
        in wrong((OPTIONAL, [("max_length", 1)])).message
    )
    assert "bool | None, which takes no ge," in wrong((("optional", "boolean"), [("ge", 1)])).message


@pytest.mark.parametrize(
    "field",
    [
        {"type": ("optional", "float"), "desc": "the price"},
        (("optional", "float"), [("desc", "the price")]),
        (("optional", "float"), "the price"),
        {"type": "float", "optional": True, "desc": "the price"},
        {"type": ("union", ["float", "string"]), "ge": 0, "description": "the price"},
        "float | None(desc='the price')",
        "float(desc='the price') | None",
        "(float | None)(desc='the price')",
        "Optional[float(desc='the price')]",
        (("optional", ("float", [("desc", "the price")]))),
    ],
)
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_description_of_a_union_is_in_the_prompt(field: Any, side: str) -> None:
    spec = signature_of(field, side)
    assert "the price" in dspy.ChatAdapter().format_system_message(build_signature(spec))
    nested = signature_of({"inner": field}, "outputs")
    assert "the price" in dspy.ChatAdapter().format_system_message(build_signature(nested))


PERSON = {
    "name": "string",
    "age": OPTIONAL,
    "role": ("enum", ["a", None]),
    "born": ("date", [("default", "2024-01-01")]),
}


@pytest.mark.parametrize("adapter", ["chat", "json"])
def test_member_that_takes_nil_may_be_missing_in_an_answer(adapter: str) -> None:
    signature = build_signature(signature_of(("list", PERSON), "outputs"))
    value = json.dumps([{"name": "Ada"}])
    text = f"[[ ## x ## ]]\n{value}" if adapter == "chat" else f'{{"x": {value}}}'
    found = plain(read_adapter(adapter).build().parse(signature, text))["x"]
    assert found == [{"name": "Ada", "age": None, "role": None, "born": datetime.date(2024, 1, 1)}]


def test_fields_of_an_object_keep_the_order_of_a_keyword_list() -> None:
    fields = [("zeta", "string"), ("alpha", ("object", [("y", "integer"), ("x", "integer")])), ("mid", "string")]
    spec = signature_of(("list", ("object", fields)), "outputs")
    assert spec.outputs[0].type_text == "list[{zeta: str, alpha: {y: int, x: int}, mid: str}]"
    prompt = dspy.ChatAdapter().format_system_message(build_signature(spec))
    for names in (("zeta", "alpha", "mid"), ("y", "x")):
        places = [prompt.index(f'"{name}": {{') for name in names]
        assert places == sorted(places)


def test_objects_have_the_names_of_their_fields_in_prompts() -> None:
    spec = parse_signature(
        {
            "inputs": ["q"],
            "outputs": {"first_people": ("list", {"home": {"street": "string"}}), "place": {"x": "integer"}},
        }
    )
    prompt = dspy.ChatAdapter().format_system_message(build_signature(spec))
    assert "`first_people` (list[FirstPeople])" in prompt
    assert "`place` (Place)" in prompt
    assert '"Home": {' in prompt
    assert "Object" not in prompt
    again = parse_signature(spec.text)
    assert [field.annotation for field in again.outputs] == [field.annotation for field in spec.outputs]


def test_member_that_is_nil_in_a_tuple_or_map_does_not_make_the_field_optional() -> None:
    for field in ("tuple[int, None]", "dict[str, None]"):
        with pytest.raises(OperationError, match="missing at inputs: x"):
            value_of_missing(field)
