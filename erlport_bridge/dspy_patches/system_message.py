"""Cache the system message of each signature; DSPy words it again for each request, a seventh of its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.types.base_type import Type as DSPyType

from erlport_bridge.dspy_patches.signature_fields import fields

# Adapters whose system message depends on the signature alone.
_adapters: Final[set[type[dspy.Adapter]]] = {dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter}

_Format = Callable[[dspy.Adapter, type[dspy.Signature]], str]


def kept(format_anew: _Format) -> _Format:
    """Return a replacement for ``Adapter.format_system_message`` that words the message of a signature once."""
    # For each adapter class: what the signature said when the message was worded, and the message.
    known: WeakKeyDictionary[type[dspy.Signature], dict[type[dspy.Adapter], tuple[object, str]]] = WeakKeyDictionary()

    def format_system_message(adapter: dspy.Adapter, signature: type[dspy.Signature]) -> str:
        if type(adapter) not in _adapters:
            return format_anew(adapter, signature)
        # A program can change the docstring and the descriptions of fields in place.
        says = signature.__doc__, [list(field.json_schema_extra.items()) for field in fields(signature).values()]
        messages = known.get(signature)
        if messages is None:
            messages = known[signature] = {}
        said, message = messages.get(type(adapter), (None, ""))
        if said != says:
            message = format_anew(adapter, signature)
            if not any(map(_describes_itself, fields(signature).values())):
                messages[type(adapter)] = says, message
        return message

    return format_system_message


def keep_system_messages(*adapters: type[dspy.Adapter]) -> None:
    """Cache the system messages of further adapters, which depend on the signature alone, too."""
    _adapters.update(adapters)


def _describes_itself(field: Any) -> bool:
    return bool(DSPyType.extract_custom_type_from_annotation(field.rebuild_annotation()))
