"""References in the schema of a tool are resolved, and its arguments keep their order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.tools import elixir_tool
from erlport_bridge.term import OrderedMap

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TREE = {"type": "object", "description": "a node", "properties": {"next": {"$ref": "#/$defs/Node"}}}


def read(properties: dict[str, Any], **schema: Any) -> dict[str, Any]:
    """Give a schema as a tool has it."""
    found: dict[str, Any] = json.loads(elixir_tool.read_schema({"properties": properties, **schema}, "p")[0])
    return found


@pytest.mark.parametrize("definitions", ["$defs", "definitions"])
@pytest.mark.parametrize("inside", [lambda part: part, lambda part: {"type": "array", "items": part}])
def test_a_reference_becomes_what_it_refers_to(definitions: str, inside: Any) -> None:
    found = read({"to": inside({"$ref": f"#/{definitions}/Place"})}, **{definitions: {"Place": PLACE}})
    assert found["properties"] == {"to": inside(PLACE)}
    assert definitions not in found


def test_references_within_definitions_and_keys_beside_them() -> None:
    definitions = {"Place": PLACE, "Trip": {"type": "object", "properties": {"to": {"$ref": "#/$defs/Place"}}}}
    found = read({"trip": {"$ref": "#/$defs/Trip", "description": "where to"}}, **{"$defs": definitions})
    assert found["properties"]["trip"] == {
        "type": "object",
        "properties": {"to": PLACE},
        "description": "where to",
    }


def test_a_definition_that_contains_itself_is_cut() -> None:
    """DSPy goes on until Python's stack ends."""
    found = read({"tree": {"$ref": "#/$defs/Node"}}, **{"$defs": {"Node": TREE}})
    inner = found["properties"]["tree"]["properties"]["next"]
    assert inner == {"type": "object", "description": "a node"}


def test_an_argument_may_be_called_like_a_keyword() -> None:
    found = read({"$ref": {"type": "string"}, "$defs": {"type": "integer"}, "default": {"const": {"$ref": "x"}}})
    assert found["properties"] == {
        "$ref": {"type": "string"},
        "$defs": {"type": "integer"},
        "default": {"const": {"$ref": "x"}},
    }


@pytest.mark.parametrize(
    "reference", ["http://x", "other.json#/a", "#/$defs/None", "#/properties/a/type", "#nothing/x"]
)
def test_a_reference_to_nothing_is_refused(reference: str) -> None:
    with pytest.raises(OperationError) as caught:
        read({"a": {"type": "string"}, "b": {"$ref": reference}})
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", "p")


def test_a_schema_that_would_grow_without_end_is_refused() -> None:
    count = 12
    definitions: dict[str, Any] = {
        f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}, {"$ref": f"#/$defs/D{n + 1}"}]} for n in range(count)
    }
    definitions[f"D{count}"] = {"type": "string"}
    with pytest.raises(OperationError, match="at most 4000 parts"):
        read({"a": {"$ref": "#/$defs/D0"}}, **{"$defs": definitions})


def test_arguments_keep_their_order_at_every_depth() -> None:
    inner = {"type": "object", "properties": {"a": {}, "z": {}}, "propertyOrdering": ["z", "a"]}
    found = read({"a": {}, "b": {}, "c": inner}, propertyOrdering=["c", "a", "b"])
    assert list(found["properties"]) == ["c", "a", "b"]
    assert list(found["properties"]["c"]["properties"]) == ["z", "a"]
    assert "propertyOrdering" not in json.dumps(found)
    assert list(read({"z": {}, "a": {}})["properties"]) == ["a", "z"]
    assert list(read(OrderedMap(z={}, a={}))["properties"]) == ["z", "a"]
