"""List the fields of a signature without Pydantic's ``model_fields``, which warns and takes three times as long."""

from __future__ import annotations

from typing import Any

import dspy


def fields(signature: type[dspy.Signature]) -> dict[str, Any]:
    """Return what ``model_fields`` returns."""
    found: dict[str, Any] = signature.__pydantic_fields__
    return found


def fields_of_type(wanted: str) -> property:
    """Return a property of signatures: their fields of the type ``input`` or ``output``, in a new dict each time."""

    def fields_of_signature(signature: type[dspy.Signature]) -> dict[str, Any]:
        # A loop: before Python 3.12 a comprehension costs a call of a function, and a prediction asks twenty times.
        found: dict[str, Any] = {}
        for name, field in signature.__pydantic_fields__.items():
            if field.json_schema_extra["__dspy_field_type"] == wanted:
                found[name] = field
        return found

    return property(fields_of_signature)
