"""Resolve the references of a JSON schema, and order its properties: providers and DSPy's prompts take no ``$ref``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import SCHEMA_PARTS
from erlport_bridge.term import shown, sorted_items

#: The key of an object's schema that has the names of its properties in their order, which no map of Elixir has.
ORDER_KEY: Final = "propertyOrdering"

# Keys whose values are schemas by name.
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# Keys whose values are data.
_DATA: Final = ("enum", "const", "default", "examples", "required")
_DEFINITIONS: Final = ("$defs", "definitions")
# Far from Python's recursion limit: checking a schema takes several functions for each level.
_MAX_DEPTH: Final = 40


def resolved(schema: Mapping[str, Any], path: str) -> tuple[dict[str, Any], int]:
    """Return a schema with every ``$ref`` replaced by its definition, and the number of its parts.

    Its properties are in their order.

    A definition that contains itself is cut where it begins again: only its type and its description stay.

    Raises:
        OperationError: Of kind ``input``, with the path: a reference leads to nothing, or out of the schema, or the
            schema would become too large.
    """
    resolver = _Resolver(schema, path)
    found = resolver.schema(schema, ())
    return {key: value for key, value in found.items() if key not in _DEFINITIONS}, resolver.parts


class _Resolver:
    def __init__(self, root: Mapping[str, Any], path: str) -> None:
        self._root = root
        self._path = path
        self.parts = 0
        self._depth = 0

    def schema(self, schema: Any, within: tuple[str, ...]) -> Any:
        """Return a part of the schema; ``within`` are the references that led to it."""
        self.parts += 1
        SCHEMA_PARTS.check(self.parts, self._path)
        if self._depth > _MAX_DEPTH:
            message = f"expected a JSON schema that nests at most {_MAX_DEPTH} levels at {self._path}"
            raise OperationError("input", message, path=self._path)
        self._depth += 1
        found = self._schema(schema, within)
        self._depth -= 1
        return found

    def _schema(self, schema: Any, within: tuple[str, ...]) -> Any:
        if isinstance(schema, list):
            return [self.schema(item, within) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        if isinstance(schema.get("$ref"), str):
            return self._referred(schema, within)
        found: dict[str, Any] = {}
        for key, value in _ordered(schema).items():
            if key in _DEFINITIONS and not within:
                continue
            if key in _NAMED and isinstance(value, Mapping):
                found[key] = {name: self.schema(item, within) for name, item in value.items()}
            else:
                found[key] = value if key in _DATA else self.schema(value, within)
        return found

    def _referred(self, schema: Mapping[str, Any], within: tuple[str, ...]) -> Any:
        reference = schema["$ref"]
        target = self._target(reference)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if reference in within:
            kept = {key: target[key] for key in ("type", "description") if key in target}
            return {**kept, **beside}
        found = self.schema(target, (*within, reference))
        return {**found, **self.schema(beside, (*within, reference))} if isinstance(found, dict) else found

    def _target(self, reference: str) -> Mapping[str, Any]:
        if not reference.startswith("#"):
            message = f'expected a JSON schema without "$ref" to others at {self._path}, got {shown(reference)}'
            raise OperationError("input", message, path=self._path)
        target: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            message = f"there is no {shown(reference)} in the JSON schema at {self._path}"
            raise OperationError("input", message, path=self._path)
        return target


def _ordered(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with its keys sorted; its properties may have an order that is given for them."""
    found = {key: schema[key] for key in sorted(schema, key=str)}
    properties = found.get("properties")
    if not isinstance(properties, Mapping):
        return found
    order = found.pop(ORDER_KEY, None)
    given = order if isinstance(order, list) else []
    names = [name for name in given if isinstance(name, str) and name in properties]
    names += [name for name, _ in sorted_items(properties)]
    found["properties"] = {name: properties[name] for name in dict.fromkeys(names)}
    return found
