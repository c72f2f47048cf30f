"""Check that the default of a field is a value of its type."""

from __future__ import annotations

import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import pydantic

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import constraints
from erlport_bridge.programs.signatures.field_type import FieldType
from erlport_bridge.term import shown

_MOMENTS: Final = (datetime.datetime, datetime.date, datetime.time)
# A default is text, a number, true, false or nil, so these types have none but nil.
_WITHOUT_DEFAULT: Final = (list, set, tuple, dict)


def default_problem(read: FieldType) -> str | None:
    """Return what is wrong with the default of a type, or ``None`` if the default is a value of the type."""
    if read.default is None and get_origin(read.annotation) is not Union:
        fits = read.annotation in (Any, type(None))
    else:
        fits = _fits(read.annotation, read.default)
    if not fits:
        return f"the default {shown(read.default)}, which is no {read.text},"
    try:
        constraints.check(read.annotation, read.constraints, read.default, "the default", "signature")
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
    if origin in _WITHOUT_DEFAULT:
        return False
    # Text may be a value of a type of DSPy, which is read with the inputs of a call.
    return isinstance(value, str) and not hasattr(annotation, "__pydantic_fields__")


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
