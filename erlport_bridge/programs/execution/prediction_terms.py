"""Convert predictions to terms: their fields, and metadata under ``$meta``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import dspy

from erlport_bridge.programs.execution.call_options import CallOptions
from erlport_bridge.programs.models import LanguageModel, ModelAccount
from erlport_bridge.programs.values import plain

#: The key under which a prediction's term holds its metadata.
META: Final = "$meta"


def prediction_term(
    prediction: dspy.Prediction,
    options: CallOptions,
    model: LanguageModel | None,
    account: ModelAccount,
    duration_ms: float,
) -> dict[str, Any]:
    """Return a prediction as a term.

    Args:
        prediction: The prediction of a module.
        options: The options of its call.
        model: The first model of the call; ``None``: the call used none.
        account: The usage and cost of the call's model requests.
        duration_ms: The duration of the run.

    Raises:
        EncodeError: A value in a field cannot be encoded as a term.
    """
    fields = {str(name): plain(value, f'["{name}"]') for name, value in prediction.items()}
    completions = getattr(prediction, "_completions", None)
    columns = dict(completions.items()) if completions is not None else {}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        **fields,
        META: {
            # The order of the signature, which a map in Elixir does not keep.
            "fields": list(fields),
            "usage": plain(_named(prediction.get_lm_usage() or {}, model), '["usage"]'),
            "completions": plain(rows, '["completions"]'),
            "duration_ms": duration_ms,
            "warnings": [*options.warnings, *account.warnings],
            "model": model.name_of(account.answered_for(model.model)) if model else None,
            **account.describe(),
            "request_id": options.request_id,
            "session_id": options.session_id,
        },
    }


def _named(usage: Mapping[str, Any], model: LanguageModel | None) -> Mapping[str, Any]:
    """Return a usage under the names that callers know: DSPy asks some providers under the name of another one."""
    return {model.name_of(name): used for name, used in usage.items()} if model else usage


def added_usage(usage: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sum of two usages in DSPy's form: numbers by name, in maps by model."""
    added = dict(usage)
    for name, value in other.items():
        if isinstance(value, Mapping):
            added[name] = added_usage(added.get(name) or {}, value)
        elif isinstance(value, int | float):
            added[name] = (added.get(name) or 0) + value
    return added


def total_tokens(prediction: Mapping[str, Any]) -> int:
    """Return the number of tokens that a prediction's term reports, summed over all models."""
    counts = (usage.get("total_tokens") for usage in prediction[META]["usage"].values())
    return sum(count for count in counts if isinstance(count, int))
