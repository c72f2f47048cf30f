"""List the fields of a signature without Pydantic's ``model_fields``, which warns and takes three times as long."""

from __future__ import annotations

from typing import Any

import dspy


def fields(signature: type[dspy.Signature]) -> dict[str, Any]:
    """Return what ``model_fields`` returns."""
    found: dict[str, Any] = signature.__pydantic_fields__
    return found


def fields_with_type(signature: type[dspy.Signature], wanted: str) -> dict[str, Any]:
    """Return what ``SignatureMeta._get_fields_with_type`` returns; ``wanted`` is ``input`` or ``output``."""
    return {
        name: field
        for name, field in fields(signature).items()
        if field.json_schema_extra["__dspy_field_type"] == wanted
    }
