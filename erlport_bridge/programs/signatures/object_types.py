"""Object types (maps with named, typed fields): Pydantic classes, which DSPy puts into the prompt as a JSON schema."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final, Union, get_args, get_origin

import pydantic

from erlport_bridge.programs.signatures.field_type import NO_DEFAULT, FieldType, default_value

# One class per name and text, so that equal signatures have equal classes and share a module.
_MAX_REMEMBERED: Final = 1_024
_models: dict[tuple[str, str], type[pydantic.BaseModel]] = {}
_lock = threading.Lock()


def object_model(field_name: str, text: str, fields: Mapping[str, FieldType]) -> type[pydantic.BaseModel]:
    """Return the Pydantic class of an object type: the same class for the same text in fields of the same name.

    Args:
        field_name: The field, or the field of another object, from whose name the class has its own: prompts show it.
        text: The canonical text of the type.
        fields: The types of the object's fields.
    """
    name = "".join(part[:1].upper() + part[1:] for part in field_name.split("_")) or "Object"
    with _lock:
        model = _models.get((name, text))
        if model is None:
            if len(_models) >= _MAX_REMEMBERED:
                _models.clear()
            model = _models[name, text] = _made(name, fields)
    return model


def is_object(annotation: Any) -> bool:
    """Return whether an annotation is a class of :func:`object_model`."""
    return isinstance(annotation, type) and issubclass(annotation, _Object)


def takes_nil(annotation: Any) -> bool:
    """Return whether ``nil`` is a value of a type; then it is the value of a field that is left out."""
    return annotation is type(None) or (get_origin(annotation) is Union and type(None) in get_args(annotation))


class _Object(pydantic.BaseModel):
    """Base class of all object types; DSPy gets an instance for a map from Elixir."""


def _made(name: str, fields: Mapping[str, FieldType]) -> type[pydantic.BaseModel]:
    definitions: dict[str, Any] = {}
    for field, read in fields.items():
        settings: dict[str, Any] = {"description": read.description} if read.description else {}
        if read.default is not NO_DEFAULT:
            # Validation makes a date of the default's text.
            settings |= {"default": default_value(read.default), "validate_default": read.default is not None}
        elif takes_nil(read.annotation):
            settings["default"] = None
        definitions[field] = (read.inner, pydantic.Field(**settings))
    return pydantic.create_model(name, __base__=_Object, **definitions)
