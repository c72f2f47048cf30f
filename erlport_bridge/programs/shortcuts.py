"""What DSPy makes anew for every value and every call, and need not.

Pydantic's documentation says of a ``TypeAdapter`` that it should be made once. DSPy 3.4 makes one for each value that
it writes into a prompt, and for each that it reads: 40 to 90 microseconds each time. What a model is told of a
signature it writes again for each request, for which it looks through the fields 20 times: a seventh of all its work
for a small prediction.
"""

from __future__ import annotations

import functools
from typing import Any, Final
from weakref import WeakKeyDictionary

import dspy
import pydantic
from dspy.adapters import base, utils
from dspy.adapters.types.base_type import Type as DSPyType
from dspy.signatures.signature import SignatureMeta

_adapter_of_class = functools.lru_cache(maxsize=512)(pydantic.TypeAdapter)

# Of these it is known that what they tell of a signature depends on nothing else.
_ADAPTERS: Final = frozenset([dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter])
# For each signature: what is told of it, for each class of adapters, with what it said then.
_told: Final[WeakKeyDictionary[type[dspy.Signature], dict[type[dspy.Adapter], tuple[object, str]]]] = (
    WeakKeyDictionary()
)
_tell: Final = base.Adapter.format_system_message


@functools.lru_cache(maxsize=512)
def _adapter_of_form(annotation: Any, _text: str) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    try:
        if isinstance(annotation, type):
            return _adapter_of_class(annotation)
        # By its text too: `int | str` and `str | int` are equal, and are read differently.
        return _adapter_of_form(annotation, repr(annotation))
    except TypeError:  # it cannot be hashed
        return pydantic.TypeAdapter(annotation)


def _system_message(adapter: dspy.Adapter, signature: type[dspy.Signature]) -> str:
    """Do as ``Adapter.format_system_message`` does, once for each signature."""
    message: str
    if type(adapter) not in _ADAPTERS:
        message = _tell(adapter, signature)
        return message
    # A program can change these in place.
    says = signature.__doc__, [list(field.json_schema_extra.items()) for field in _fields(signature).values()]
    known = _told.get(signature)
    if known is None:
        known = _told[signature] = {}
    said, message = known.get(type(adapter), (None, ""))
    if said != says:
        message = _tell(adapter, signature)
        if not any(map(_describes_itself, _fields(signature).values())):
            known[type(adapter)] = says, message
    return message


def _describes_itself(field: Any) -> bool:
    return bool(DSPyType.extract_custom_type_from_annotation(field.rebuild_annotation()))


def _fields(signature: type[dspy.Signature]) -> dict[str, Any]:
    # What `model_fields` is, without Pydantic's warning for those that ask an object for it.
    fields: dict[str, Any] = signature.__pydantic_fields__
    return fields


def _fields_with_type(signature: type[dspy.Signature], wanted: str) -> dict[str, Any]:
    """Do as ``SignatureMeta._get_fields_with_type`` does, in a third of the time."""
    return {
        name: field
        for name, field in _fields(signature).items()
        if field.json_schema_extra["__dspy_field_type"] == wanted
    }


def install() -> None:
    """Have DSPy use one adapter for each type, and one text for each signature, from now on."""
    utils.TypeAdapter = _adapter
    base.Adapter.format_system_message = _system_message
    SignatureMeta._get_fields_with_type = _fields_with_type
