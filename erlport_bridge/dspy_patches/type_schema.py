"""Write the JSON schema of a type into prompts with the fields of objects in their own order; DSPy sorts them."""

from __future__ import annotations

from typing import Any, Final

from erlport_bridge.dspy_patches.type_adapters import type_adapter

# Maps from names of fields or classes, not from keywords of JSON schema.
_OF_NAMES: Final = ("properties", "$defs")


def type_schema(annotation: Any) -> Any:
    """Return what ``_get_json_schema`` returns: keywords sorted, ``type`` first; fields in the order of their class."""
    return _ordered(type_adapter(annotation).json_schema())


def _ordered(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_ordered(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        keyword: {name: _ordered(item) for name, item in schema[keyword].items()}
        if keyword in _OF_NAMES and isinstance(schema[keyword], dict)
        else _ordered(schema[keyword])
        for keyword in sorted(schema, key=lambda keyword: (keyword != "type", keyword))
    }
