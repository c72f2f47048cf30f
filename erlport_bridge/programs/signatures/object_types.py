"""Object types (maps with named, typed fields): Pydantic classes, which DSPy puts into the prompt as a JSON schema."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

import pydantic

from erlport_bridge.programs.signatures.field_type import NO_DEFAULT, FieldType

# One class per text, so that equal signatures have equal classes and share a module.
_MAX_REMEMBERED: Final = 1_024
_models: dict[str, type[pydantic.BaseModel]] = {}
_lock = threading.Lock()


def object_model(text: str, fields: Mapping[str, FieldType]) -> type[pydantic.BaseModel]:
    """Return the Pydantic class of an object type: the same class for the same text."""
    with _lock:
        model = _models.get(text)
        if model is None:
            if len(_models) >= _MAX_REMEMBERED:
                _models.clear()
            model = _models[text] = _made(fields)
    return model


def is_object(annotation: Any) -> bool:
    """Return whether an annotation is a class of :func:`object_model`."""
    return isinstance(annotation, type) and issubclass(annotation, _Object)


class _Object(pydantic.BaseModel):
    """Base class of all object types; DSPy gets an instance for a map from Elixir."""


def _made(fields: Mapping[str, FieldType]) -> type[pydantic.BaseModel]:
    definitions: dict[str, Any] = {}
    for name, read in fields.items():
        settings: dict[str, Any] = {"description": read.description} if read.description else {}
        if read.default is not NO_DEFAULT:
            settings["default"] = read.default
        definitions[name] = (read.inner, pydantic.Field(**settings))
    return pydantic.create_model("Object", __base__=_Object, **definitions)
