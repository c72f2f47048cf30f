"""Show of earlier turns what they hold: DSPy writes ``None`` for each output that a turn does not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import dspy

from erlport_bridge.dspy_patches.signature_fields import fields

_Format = Callable[[Any, type[dspy.Signature], str, dict[str, Any]], list[dict[str, Any]]]


def held_fields_only(format_anew: _Format) -> _Format:
    """Return a stand-in for ``Adapter.format_conversation_history`` that leaves out what a turn does not hold."""
    # By the outputs that a turn holds.
    known: WeakKeyDictionary[type[dspy.Signature], dict[tuple[str, ...], type[dspy.Signature]]] = WeakKeyDictionary()

    def signature_of(signature: type[dspy.Signature], turn: Mapping[str, Any]) -> type[dspy.Signature]:
        """Return a signature whose outputs are those of the turn."""
        outputs = signature.output_fields
        names = tuple(name for name in outputs if name in turn)
        if not names:
            # The answer of a whole agent, in the history of one of its steps.
            names = tuple(name for name in turn if name not in fields(signature))
        if len(names) == len(outputs) and all(name in outputs for name in names):
            return signature
        signatures = known.setdefault(signature, {})
        if names not in signatures:
            shown: dict[str, Any] = {
                name: (outputs[name].annotation, outputs[name]) if name in outputs else (Any, dspy.OutputField())
                for name in names
            }
            signatures[names] = dspy.Signature(shown)
        return signatures[names]

    class Showing:
        """An adapter that words an earlier answer with the fields of that answer."""

        def __init__(self, adapter: dspy.Adapter) -> None:
            self._adapter = adapter

        def __getattr__(self, name: str) -> Any:
            return getattr(self._adapter, name)

        def format_assistant_message_content(
            self, signature: type[dspy.Signature], outputs: Mapping[str, Any], *others: Any, **named: Any
        ) -> str:
            shown = signature_of(signature, outputs)
            if not shown.output_fields:
                return ""
            return str(self._adapter.format_assistant_message_content(shown, outputs, *others, **named))

    def format_conversation_history(
        adapter: dspy.Adapter, signature: type[dspy.Signature], history_field_name: str, inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        return format_anew(Showing(adapter), signature, history_field_name, inputs)

    return format_conversation_history
