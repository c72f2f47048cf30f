"""Write the schema of an answer as strict structured outputs take it, or find that they cannot take it.

DSPy looks for open maps in the first level of a signature only: a map within an object was sent as an object without
fields, so that the model could answer ``{}`` alone. Other types have keywords that the providers refuse.

Source: https://platform.openai.com/docs/guides/structured-outputs (supported schemas)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import dspy
import pydantic
from dspy.adapters.types.tool import ToolCalls

# A schema with these keywords is refused by the providers. What they say is in the prompt, and checked in the answer.
_DROPPED: Final = frozenset({"default", "uniqueItems", "minLength", "maxLength", "minProperties", "maxProperties"})
# Not `time` and `date-time`: in JSON schema they have a time zone, which the model would have to invent.
_FORMATS: Final = frozenset({"date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_LOOKAROUND: Final = ("(?=", "(?!", "(?<")
_TYPE_NAMES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
# Limits of OpenAI.
_MAX_LEVELS: Final = 10
_MAX_PROPERTIES: Final = 5_000
_MAX_CHOICES: Final = 1_000


class NotStrictError(ValueError):
    """A schema that strict structured outputs cannot take; the provider is asked for any JSON object."""


def needs_json_mode(signature: type[dspy.Signature]) -> bool:
    """Return whether no strict schema describes the outputs of a signature; replaces ``_has_open_ended_mapping``."""
    try:
        response_format(signature)
    except ValueError:
        return True
    return False


def response_format(
    signature: type[dspy.Signature], use_native_function_calling: bool = True
) -> type[pydantic.BaseModel]:
    """Return what ``_get_structured_outputs_response_format`` returns: a class whose schema is strict.

    Raises:
        NotStrictError: No strict schema describes the outputs.
    """
    made: Callable[[Any, bool], type[pydantic.BaseModel] | NotStrictError] = _made
    found = made(signature, use_native_function_calling)
    if isinstance(found, NotStrictError):
        raise NotStrictError(*found.args)
    return found


# Keyed by the class: nothing but annotations and defaults goes into a schema, and they do not change.
@functools.lru_cache(maxsize=256)
def _made(signature: type[dspy.Signature], natively: bool) -> type[pydantic.BaseModel] | NotStrictError:
    fields: dict[str, Any] = {
        name: (field.annotation, field.default)
        for name, field in signature.output_fields.items()
        if not (natively and field.annotation == ToolCalls)
    }
    model: Any = pydantic.create_model("DSPyProgramOutputs", __config__=pydantic.ConfigDict(extra="forbid"), **fields)
    try:
        schema = strict_schema(model.model_json_schema())
    except NotStrictError as error:
        return error
    model.model_json_schema = lambda *_args, **_options: schema
    made: type[pydantic.BaseModel] = model
    return made


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the strict form of the JSON schema of a Pydantic class.

    Raises:
        NotStrictError: A type within it has no strict form: an open map, any value, a tuple of different types.
    """
    strict = _Strict(schema.get("$defs", {}))
    written = strict.written(schema, 0)
    if "$defs" in schema:
        written["$defs"] = {name: strict.written(part, 1) for name, part in schema["$defs"].items()}
    if strict.properties > _MAX_PROPERTIES or strict.choices > _MAX_CHOICES:
        raise NotStrictError("more fields or choices than a strict schema may have")
    if strict.levels(written, 1) > _MAX_LEVELS:
        raise NotStrictError(f"a schema of more than {_MAX_LEVELS} levels")
    return written


class _Strict:
    """The rewriting of one schema, with the counts for its limits."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self.properties = 0
        self.choices = 0

    def written(self, schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, dict):
            raise NotStrictError("any value")
        found = {key: value for key, value in schema.items() if key not in (*_DROPPED, "json_schema_extra", "$defs")}
        if found.get("format", "date") not in _FORMATS:
            del found["format"]
        if any(part in found.get("pattern", "") for part in _LOOKAROUND):
            del found["pattern"]
        if "$ref" in found:
            return found
        for key in ("anyOf", "oneOf"):
            if key in found:
                found["anyOf"] = [self.written(part, depth) for part in found.pop(key)]
                return found
        if "const" in found:
            found["enum"] = [found.pop("const")]
        if "enum" in found:
            return self._enum(found)
        if found.get("type") == "object":
            return self._object(found, depth)
        if found.get("type") == "array":
            return self._array(found, depth)
        if "type" not in found:
            raise NotStrictError("any value")
        return found

    def _enum(self, found: dict[str, Any]) -> dict[str, Any]:
        choices = found["enum"]
        self.choices += len(choices)
        kinds = list(dict.fromkeys(_TYPE_NAMES.get(type(choice)) for choice in choices))
        if None in kinds:
            raise NotStrictError("a choice that is no JSON scalar")
        if len(kinds) == 1:
            return {**found, "type": kinds[0]}
        by_kind = [
            {"type": kind, "enum": [choice for choice in choices if _TYPE_NAMES[type(choice)] == kind]}
            for kind in kinds
        ]
        return {**{key: value for key, value in found.items() if key not in ("enum", "type")}, "anyOf": by_kind}

    def _object(self, found: dict[str, Any], depth: int) -> dict[str, Any]:
        if "properties" not in found or found.get("additionalProperties") not in (None, False):
            raise NotStrictError("an open map")
        self.properties += len(found["properties"])
        properties = {name: self.written(part, depth + 1) for name, part in found["properties"].items()}
        return {**found, "properties": properties, "required": list(properties), "additionalProperties": False}

    def _array(self, found: dict[str, Any], depth: int) -> dict[str, Any]:
        members = found.pop("prefixItems", None)
        if members is not None:
            if not members or any(member != members[0] for member in members):
                raise NotStrictError("a tuple of different types")
            found["items"] = members[0]
        return {**found, "items": self.written(found.get("items"), depth + 1)}

    def levels(self, schema: Any, depth: int) -> int:
        """Return how many levels of objects and lists nest in a schema."""
        if depth > _MAX_LEVELS:
            return depth
        if "$ref" in schema:
            return self.levels(self._definitions[schema["$ref"].rpartition("/")[2]], depth)
        parts = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
        return max(
            [
                depth,
                *(self.levels(part, depth + 1) for part in parts),
                *(self.levels(part, depth) for part in schema.get("anyOf", ())),
            ]
        )
