"""Constraints and object types are checked for inputs and outputs, at every depth."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution.output_checks import check_outputs
from erlport_bridge.programs.signatures.constraints import constrained
from erlport_bridge.programs.signatures.spec import build_signature, parse_signature
from erlport_bridge.programs.values.inputs import input_values
from erlport_bridge.programs.values.results import plain


def values(signature: str, **inputs: Any) -> dict[str, Any]:
    return input_values(parse_signature(f"{signature} -> answer"), inputs)


@pytest.mark.parametrize(
    ("type_text", "right", "wrong", "path"),
    [
        ("float(ge=0, le=1)", 0.5, 1.5, "inputs.a"),
        ("int(gt=0)", 1, 0, "inputs.a"),
        ("int(multiple_of=5)", 10, 11, "inputs.a"),
        ("str(min_length=2, max_length=3)", "abc", "abcd", "inputs.a"),
        ('str(pattern="^[a-z]+$")', "abc", "ABC", "inputs.a"),
        ("list[int](max_length=2)", [1, 2], [1, 2, 3], "inputs.a"),
        ("list[int(ge=0)]", [1, 2], [1, -2], "inputs.a[1]"),
        ("dict[str, str(max_length=1)]", {"k": "v"}, {"k": "vv"}, 'inputs.a["k"]'),
        ("int(ge=0) | None", None, -1, "inputs.a"),
        ("{age: int(ge=0)}", {"age": 3}, {"age": -3}, "inputs.a.age"),
        ("list[{tags: list[str](min_length=1)}]", [{"tags": ["x"]}], [{"tags": []}], "inputs.a[0].tags"),
    ],
)
def test_an_input_that_breaks_a_constraint_is_an_error(type_text: str, right: Any, wrong: Any, path: str) -> None:
    values(f"a: {type_text}", a=right)
    with pytest.raises(OperationError) as raised:
        values(f"a: {type_text}", a=wrong)
    assert raised.value.kind == "input"
    assert raised.value.facts["path"] == path
    assert path in raised.value.message


def test_types_with_equal_constraints_are_equal() -> None:
    bounds = (("ge", 0), ("le", 1))
    assert constrained(float, bounds) == constrained(float, bounds)
    assert hash(constrained(float, bounds)) == hash(constrained(float, bounds))
    assert constrained(str, (("pattern", "^a"),)) == constrained(str, (("pattern", "^a"),))
    assert constrained(float, bounds) != constrained(float, (("ge", 0), ("le", 2)))
    assert constrained(float, ()) is float


def test_an_output_that_breaks_a_constraint_is_a_parse_error() -> None:
    spec = parse_signature("q -> score: float(ge=0, le=1), tags: list[str](min_length=1)")
    check_outputs(spec, {"score": 0.5, "tags": ["a"]})
    check_outputs(spec, {"score": None})
    with pytest.raises(OperationError) as raised:
        check_outputs(spec, {"score": 5.0, "tags": ["a"]})
    assert raised.value.kind == "parse"
    assert raised.value.message == "expected a value less than or equal to 1 at outputs.score, got 5.0"
    with pytest.raises(OperationError, match=r"at outputs\.tags"):
        check_outputs(spec, {"tags": []})


def test_the_prompt_states_all_constraints() -> None:
    signature = build_signature(parse_signature('q -> s: float(ge=0, le=1), t: str(max_length=5, pattern="^a")'))
    assert signature.fields["s"].json_schema_extra["constraints"] == (
        "greater than or equal to: 0, less than or equal to: 1"
    )
    assert signature.fields["t"].json_schema_extra["constraints"] == (
        "maximum length: 5, matching the regular expression: ^a"
    )


def test_a_missing_input_has_its_default() -> None:
    assert values("q, k: int(default=3)", q="?") == {"q": "?", "k": 3}
    assert values("q, k: int(default=3)", q="?", k=4) == {"q": "?", "k": 4}


def test_an_object_is_a_map_as_input_and_as_output() -> None:
    person = {"name": "Ada", "born": "1815-12-10", "children": [{"name": "Byron", "age": 3}]}
    given = values("p: {name: str, born: date, children: list[{name: str, age: int(default=0)}]}", p=person)["p"]
    assert given.born.year == 1815
    assert plain(given)["children"] == [{"name": "Byron", "age": 3}]
    assert values("p: {name: str, age: int(default=0)}", p={"name": "x"})["p"].age == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "expected a map with name, age at inputs.p"),
        ({"name": "x"}, "age is missing"),
        ({"name": "x", "age": 1, "agee": 2}, 'expected one of name, age as a key at inputs.p, got "agee"'),
        ({"name": "x", "age": "old"}, "expected an integer at inputs.p.age"),
    ],
)
def test_a_map_that_is_not_the_object_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(OperationError) as raised:
        values("p: {name: str, age: int}", p=value)
    assert message in raised.value.message


def test_equal_object_types_are_one_class() -> None:
    first = parse_signature("p: {name: str, age: int(ge=0)} -> a")
    second = parse_signature("p:{name:str,age:int(ge=0)}->a")
    assert first == second
    assert build_signature(first) is build_signature(second)
