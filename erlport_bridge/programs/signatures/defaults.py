"""Read the default of a field, and check that it is a value of its type."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import pydantic

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import constraints
from erlport_bridge.programs.signatures.field_type import FieldType, default_value
from erlport_bridge.programs.signatures.object_types import is_object
from erlport_bridge.term import shown

_MOMENTS: Final = (datetime.datetime, datetime.date, datetime.time)
_LISTS: Final = (list, set, tuple)
_MAX_DEPTH: Final = 16


def read_default(reader: Any, read_scalar: Callable[[], Any], depth: int = 1) -> Any:
    """Read a default behind ``default=``: text, a number, a constant, a list of these, or a map with keys of text.

    Args:
        reader: The reader of the type's tokens.
        read_scalar: Reads what is neither a list nor a map.
        depth: The nesting depth, counted from 1.
    """
    if depth > _MAX_DEPTH:
        reader.fail(f"a default that nests deeper than {_MAX_DEPTH} levels", reader.next.position)
    if reader.take_mark("["):
        items: list[Any] = []
        while not reader.take_mark("]"):
            if items and not reader.take_mark(","):
                reader.expected('"," or "]"')
            items.append(read_default(reader, read_scalar, depth + 1))
        return items
    if not reader.take_mark("{"):
        return read_scalar()
    entries: dict[str, Any] = {}
    while not reader.take_mark("}"):
        if entries and not reader.take_mark(","):
            reader.expected('"," or "}"')
        if reader.next.kind != "string":
            reader.expected("a key in double quotes")
        name = read_scalar()
        if not reader.take_mark(":"):
            reader.expected('":"')
        entries[name] = read_default(reader, read_scalar, depth + 1)
    return entries


def default_problem(read: FieldType) -> str | None:
    """Return what is wrong with the default of a type, or ``None`` if the default is a value of the type."""
    default = default_value(read.default)
    if default is None and get_origin(read.annotation) is not Union:
        fits = read.annotation in (Any, type(None))
    else:
        fits = _fits(read.annotation, default)
    if not fits:
        return f"the default {shown(default)}, which is no {read.text},"
    try:
        constraints.check(read.annotation, read.constraints, default, "the default", "signature")
    except OperationError as error:
        return f"a default that breaks its constraint: {error.message},"
    return None


def _fits(annotation: Any, value: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin is Union:
        return any(_fits(member, value) for member in get_args(annotation))
    if origin is Annotated:
        return _fits(annotation.__origin__, value) and _is_valid(annotation, value)
    if origin is Literal:
        return any(type(choice) is type(value) and choice == value for choice in get_args(annotation))
    if annotation is Any:
        return True
    if value is None or annotation is type(None):
        return value is None and annotation is type(None)
    if annotation is str:
        return isinstance(value, str)
    if annotation is bool or isinstance(value, bool):
        return annotation is bool and isinstance(value, bool)
    if annotation in (int, float, Decimal):
        return _is_number(annotation, value)
    if annotation in _MOMENTS:
        return isinstance(value, str) and _is_valid(annotation, value)
    if origin in _LISTS:
        return (
            isinstance(value, list) and _all_fit(origin, get_args(annotation), value) and _is_valid(annotation, value)
        )
    if origin is dict:
        keys, values = get_args(annotation) or (Any, Any)
        return isinstance(value, dict) and all(_fits(keys, key) and _fits(values, item) for key, item in value.items())
    if is_object(annotation):
        return isinstance(value, dict) and _is_object(annotation, value)
    # Text may be a value of a type of DSPy, which is read with the inputs of a call.
    return isinstance(value, str) and not hasattr(annotation, "__pydantic_fields__")


def _all_fit(origin: Any, members: tuple[Any, ...], value: list[Any]) -> bool:
    if origin is not tuple or members[-1:] == (...,):
        member = members[0] if members else Any
        return all(_fits(member, item) for item in value)
    return len(members) == len(value) and all(map(_fits, members, value))


def _is_object(annotation: Any, value: dict[str, Any]) -> bool:
    fields = annotation.model_fields
    return (
        value.keys() <= fields.keys()
        and all(_fits(fields[name].annotation, item) for name, item in value.items())
        and _is_valid(annotation, value)
    )


def _is_number(annotation: Any, value: Any) -> bool:
    if annotation is Decimal and isinstance(value, str):
        try:
            Decimal(value)
        except InvalidOperation:
            return False
        return True
    return isinstance(value, int) or (annotation is float and isinstance(value, float))


def _is_valid(annotation: Any, value: Any) -> bool:
    try:
        pydantic.TypeAdapter(annotation).validate_python(value)
    except pydantic.ValidationError:
        return False
    return True
