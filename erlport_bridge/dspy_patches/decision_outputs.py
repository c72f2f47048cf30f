"""Look once through a signature for outputs that are decisions; DSPy looks again in each request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.types.decision import Choice, Noul, Score


def looked_for_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement for ``resolve_adapter``, which returns the adapter itself if no output is a decision."""
    # For each signature without decisions: the types of its outputs when it was looked through.
    known: WeakKeyDictionary[type[dspy.Signature], list[Any]] = WeakKeyDictionary()

    def resolve_adapter(lm: Any, adapter: Any, signature: Any, fields: Any, declared_signature: Any = None) -> Any:
        if fields or getattr(lm, "supports_decision_requests", False) is True:
            return original(lm, adapter, signature, fields, declared_signature)
        outputs = signature.output_fields.values()
        types = [(field.annotation, field.metadata) for field in outputs]
        if known.get(signature) != types:
            if any(map(_has_decision, outputs)):
                return original(lm, adapter, signature, fields, declared_signature)
            known[signature] = types
        return adapter

    return resolve_adapter


def _has_decision(field: Any) -> bool:
    """Return whether a decision is in the type of a field, or configured beside it."""
    annotation = field.rebuild_annotation()
    return any(kind.extract_custom_type_from_annotation(annotation) for kind in (Noul, Choice, Score)) or any(
        isinstance(kind, type) and issubclass(kind, (Noul, Score, Choice)) for kind in field.metadata
    )
