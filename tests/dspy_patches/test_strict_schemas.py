"""The schema that a provider gets with the adapter ``json``: strict where that is possible, else any JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dspy
import jsonschema
import pytest

from erlport_bridge.programs.signatures import build_signature, parse_signature

#: What OpenAI takes in a strict schema, beside ``$defs`` and ``$ref``.
_TAKEN = {
    *("type", "title", "description", "enum", "anyOf", "properties", "required", "additionalProperties", "items"),
    *("minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("pattern", "format"),
}


def response_format(field: str) -> Any:
    """Return the ``response_format`` of a request for an output ``v`` of a type."""
    options: dict[str, Any] = {}
    model = SimpleNamespace(supported_params={"response_format"}, supports_response_schema=True)
    signature = build_signature(parse_signature(f"q -> v: {field}"))
    dspy.JSONAdapter()._prepare_response_format(model, options, signature)
    found = options["response_format"]
    return found if isinstance(found, dict) else found.model_json_schema()


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    for part in [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]:
        yield from parts(part)
    if "items" in schema:
        yield from parts(schema["items"])


STRICT: list[tuple[str, Any, Any]] = [
    ("str(min_length=2, max_length=9)", "text", 7),
    ("str(pattern='^a+$')", "aa", 7),
    ("int(ge=1, le=3)", 2, "2"),
    ("float(multiple_of=0.5)", 1.5, "x"),
    ("bool", True, 1),
    ("None", None, 1),
    ("int | None", None, "x"),
    ("str | list[int]", [1], ["a"]),
    ("Decimal", 1.5, True),
    ("date", "2024-01-01", 1999),
    ("time", "12:00:00", 7),
    ("datetime", "2024-01-01T12:00:00", 7),
    ("Literal['a', 'b']", "b", "c"),
    ("Literal['a']", "a", "b"),
    ("Literal['a', 1, None]", 1, 2),
    ("Literal[1, 2]", 2, "2"),
    ("Literal[True, 'maybe']", "maybe", "no"),
    ("list[list[int]]", [[1]], [1]),
    ("set[str]", ["a"], [1]),
    ("tuple[int, int]", [1, 2], [1]),
    ("tuple[str, ...]", ["a"], [1]),
    (
        "{a: int(default=3), b: str(default='x') | None, c: {d: list[date](max_length=2)}}",
        {"a": 1, "b": None, "c": {"d": []}},
        {},
    ),
    ("list[{a: {b: str}}]", [{"a": {"b": "x"}}], [{"a": {}}]),
    ("dspy.Code['python']", {"code": "x"}, {}),
    ("dspy.Citations", {"citations": []}, {}),
]
NOT_STRICT = [
    "dict",
    "dict[str, int]",
    "list[dict[str, int]]",
    "list[list[dict]]",
    "{a: dict[str, str]}",
    "{a: {b: list[dict[str, Any]]}}",
    "dict[str, int] | None",
    "str | dict[str, int]",
    "{a: int | dict[str, int]}",
    "Any",
    "list",
    "list[Any]",
    "{a: Any}",
    "{a: Any | None}",
    "set",
    "tuple",
    "tuple[int, str]",
    "list[tuple[int, str]]",
    "list[" * 12 + "int" + "]" * 12,
]


@pytest.mark.parametrize(("field", "right", "wrong"), STRICT, ids=[field for field, _, _ in STRICT])
def test_strict_schema_has_what_providers_take_and_describes_the_type(field: str, right: Any, wrong: Any) -> None:
    schema = response_format(field)
    for part in parts(schema):
        keywords = part.keys() - {"$defs"}
        if "$ref" in part:
            assert keywords == {"$ref"}
            continue
        assert keywords <= _TAKEN
        assert "type" in part or "anyOf" in part
        if part.get("type") == "object":
            assert (part["required"], part["additionalProperties"]) == (list(part["properties"]), False)
    jsonschema.validate({"v": right}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"v": wrong}, schema)


@pytest.mark.parametrize("field", NOT_STRICT)
def test_type_without_a_strict_schema_asks_for_any_json_object(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """A map within an object was sent as an object without fields, in which a model may answer ``{}`` alone."""
    assert response_format(field) == {"type": "json_object"}
    assert not caplog.records
