"""Convert predictions to terms: their fields, and metadata under ``$meta``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import dspy

from erlport_bridge import worker
from erlport_bridge.programs.execution.call_options import CallOptions
from erlport_bridge.programs.models import LanguageModel, ModelAccount
from erlport_bridge.programs.values import plain
from erlport_bridge.request import weight

#: The key under which a prediction's term holds its metadata.
META: Final = "$meta"


def prediction_term(
    prediction: dspy.Prediction,
    options: CallOptions,
    models: Sequence[LanguageModel],
    account: ModelAccount,
    duration_ms: float,
) -> dict[str, Any]:
    """Return a prediction as a term.

    Args:
        prediction: The prediction of a module.
        options: The options of its call.
        models: The models of the call: its own, and those of stages that have another one.
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
            "usage": {name: plain(used, f'["usage"]["{name}"]') for name, used in _usage(prediction, models)},
            "completions": [plain(row, f'["completions"][{index}]') for index, row in enumerate(rows)],
            "duration_ms": duration_ms,
            "warnings": [*options.warnings, *account.warnings],
            "model": _last_model(models, account),
            **account.describe(),
            "request_id": options.request_id,
            "session_id": options.session_id,
            **worker.identity(),
        },
    }


def is_heavy(prediction: dspy.Prediction) -> bool:
    """Return whether a prediction is so large that it may not become a term on the event loop."""
    completions = getattr(prediction, "_completions", None)
    # A single completion has the values of the prediction.
    others = [completions] if completions is not None and len(completions) > 1 else []
    return weight.is_heavy(*prediction.values(), *others)


def _last_model(models: Sequence[LanguageModel], account: ModelAccount) -> str | None:
    """Return the model of the last answer, which is in the last stage that asked; not one that reads other answers."""
    answered = account.last_answered({model.model for model in models})
    return None if answered is None else _name_of(answered, models)


def _usage(prediction: dspy.Prediction, models: Sequence[LanguageModel]) -> list[tuple[str, Any]]:
    """Return the usage of models by the names that callers know: DSPy asks some providers under another name."""
    return [(_name_of(name, models), used) for name, used in (prediction.get_lm_usage() or {}).items()]


def _name_of(name: str, models: Sequence[LanguageModel]) -> str:
    for model in models:
        shown = model.name_of(name)
        if shown != name:
            return shown
    return name
