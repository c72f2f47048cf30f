"""What DSPy makes anew for every value and every call, and need not.

Pydantic's documentation says of a ``TypeAdapter`` that it should be made once. DSPy 3.4 makes one for each value that
it writes into a prompt, and for each that it reads: 40 to 90 microseconds each time. What a model is told of a
signature it writes again for each request, for which it looks through the fields 20 times: a seventh of all its work
for a small prediction. What is known of a model's abilities and prices it looks up three times for each request, among
5,000 entries: half a millisecond each time for a model that is not among them, in a thread that first has to wake. And
where a request has callbacks, as that of a stream has, it finds out each time how a method names its arguments, and
which callback is the one for such an object: another half of a millisecond.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final
from weakref import WeakKeyDictionary

import dspy
import pydantic
from dspy.adapters import base, utils
from dspy.adapters.types.base_type import Type as DSPyType
from dspy.clients import capabilities, costs, model_metadata
from dspy.signatures.signature import SignatureMeta
from dspy.utils import callback as callbacks

_adapter_of_class = functools.lru_cache(maxsize=512)(pydantic.TypeAdapter)

# Of these it is known that what they tell of a signature depends on nothing else.
_ADAPTERS: Final = frozenset([dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter])
# For each signature: what is told of it, for each class of adapters, with what it said then.
_told: Final[WeakKeyDictionary[type[dspy.Signature], dict[type[dspy.Adapter], tuple[object, str]]]] = (
    WeakKeyDictionary()
)
_tell: Final = base.Adapter.format_system_message
# A name may be what a server says.
_MAX_NAME_CHARACTERS: Final = 256


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


@functools.lru_cache(maxsize=512)
def _known_info(_metadata: int, provider: str, model: str, namespaces: tuple[str, ...] | None) -> dict[str, Any]:
    info: dict[str, Any] = model_metadata.model_info(provider, model, namespaces=namespaces)
    return info


def _model_info(provider: str, model: str, *, namespaces: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Do as ``model_metadata.model_info`` does, once for each model; for those who only read it."""
    if not isinstance(model, str) or len(model) > _MAX_NAME_CHARACTERS:
        info: dict[str, Any] = model_metadata.model_info(provider, model, namespaces=namespaces)
        return info
    # DSPy loads what it knows of models once for the process.
    known = None if namespaces is None else tuple(namespaces)
    return _known_info(id(model_metadata._load()), provider, model, known)


@functools.lru_cache(maxsize=512)
def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function, follow_wrapped=False)


def _call_arguments(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Do as ``inspect.getcallargs`` does, for functions."""
    bound = _signature_of(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


# A choice of DSPy's: gives the one of a callback's methods that is for a call of this function of this object.
_Choice = Callable[[callbacks.BaseCallback, Any, Callable[..., Any]], Callable[..., Any]]


def _chosen_once(choose: _Choice) -> _Choice:
    """Give the same choice, made once for each class of objects and each name of a function, on which it depends."""
    chosen: WeakKeyDictionary[type, dict[tuple[str, bool], str]] = WeakKeyDictionary()

    @functools.wraps(choose)
    def choose_once(
        callback: callbacks.BaseCallback, instance: Any, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        known = chosen.get(type(instance))
        if known is None:
            known = chosen[type(instance)] = {}
        # All that it asks of the object itself.
        key = function.__name__, getattr(instance, "supports_decision_requests", False) is True
        name = known.get(key)
        if name is None:
            name = known[key] = choose(_NO_CALLBACK, instance, function).__name__
        method: Callable[..., Any] = getattr(callback, name)
        return method

    return choose_once


_NO_CALLBACK: Final = callbacks.BaseCallback()
_on_start: Final = _chosen_once(callbacks._get_on_start_handler)
_on_end: Final = _chosen_once(callbacks._get_on_end_handler)


def install() -> None:
    """Have DSPy use what it has made for a type, a signature or a model, from now on."""
    utils.TypeAdapter = _adapter
    base.Adapter.format_system_message = _system_message
    SignatureMeta._get_fields_with_type = _fields_with_type
    capabilities.model_info = _model_info
    costs.model_info = _model_info
    callbacks._get_on_start_handler = _on_start
    callbacks._get_on_end_handler = _on_end
    callbacks.inspect = SimpleNamespace(getcallargs=_call_arguments, iscoroutinefunction=inspect.iscoroutinefunction)
