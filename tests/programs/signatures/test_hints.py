"""Names of types and settings of other languages and libraries have their names here in errors."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import hints, parse_signature
from erlport_bridge.programs.signatures.constraints import NAMES
from erlport_bridge.programs.signatures.type_parser import TokenReader, parse_type
from erlport_bridge.term import Atom


def refused(source: Any) -> str:
    with pytest.raises(OperationError) as caught:
        parse_signature(source)
    assert caught.value.kind == "signature"
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("text", "str"),
        ("Text", "str"),
        ("double", "float"),
        ("null", "None"),
        ("timestamp", "datetime"),
        ("enum", 'Literal["a", "b"]'),
        ("strng", '"string"'),
        ("itn", '"int"'),
    ],
)
@pytest.mark.parametrize("form", ["{}", "list[{}]", "dict[str, {}]", "{{name: {}}}", "str | {}"])
def test_an_unknown_type_has_its_name_here(name: str, meant: str, form: str) -> None:
    assert f"(did you mean {meant}?); known types: str" in refused(f"a -> b: {form.format(name)}")


@pytest.mark.parametrize(
    ("term", "meant"),
    [
        (Atom("text"), "str"),
        (Atom("Elixir.String"), "str"),
        ((Atom("list"), Atom("strng")), '"string"'),
        ((Atom("map"), Atom("Elixir.Decimal")), "Decimal"),
        ((Atom("lst"), Atom("string")), '"List"'),
    ],
)
def test_an_unknown_type_as_a_term_has_its_name_here(term: Any, meant: str) -> None:
    assert f"(did you mean {meant}?)" in refused({"inputs": "a", "outputs": [(Atom("b"), term)]})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("int(min=3)", "ge"),
        ("str(min=3)", "min_length"),
        ("int(gte=3)", "ge"),
        ("list(max_items=3)", "max_length"),
        ("str(ge=3)", "min_length"),
        ('str(regex="x")', "pattern"),
        ("(int | None)(max=3)", "le"),
        ("str(mx_length=3)", '"max_length"'),
    ],
)
def test_an_unknown_setting_has_its_name_here(text: str, meant: str) -> None:
    name = text.partition("=")[0].rpartition("(")[2]
    assert f"takes no {name} (did you mean {meant}?); it takes " in refused(f"a -> b: {text}")


@pytest.mark.parametrize(("name", "meant"), [("gte", "ge"), ("max_items", "max_length"), ("mx_length", '"max_length"')])
def test_an_unknown_setting_of_a_term_has_its_name_here(name: str, meant: str) -> None:
    term = (Atom("string"), [(Atom(name), 3)])
    message = refused({"inputs": "a", "outputs": [(Atom("b"), term)]})
    assert f"unknown option {name} at signature.outputs[0].b (did you mean {meant}?); known are " in message


@pytest.mark.parametrize("name", sorted({*hints._TYPES}))
def test_what_is_meant_by_a_type_is_a_type(name: str) -> None:
    meant = hints.of_type(name, []).removeprefix(" (did you mean ").removesuffix("?)")
    assert parse_type(TokenReader(meant, "signature"), "a")
    assert set(NAMES) >= {meant for several in hints._SETTINGS.values() for meant in several} - {"enum", "desc"}
