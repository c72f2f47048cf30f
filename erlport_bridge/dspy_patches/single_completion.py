"""Make the prediction of one completion, which nearly all are, without a call for each attribute of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dspy.primitives.prediction import Completions, Prediction


def of_one(original: Callable[..., Prediction]) -> Any:
    """Return a replacement for ``Prediction.from_completions``, which leaves several completions to DSPy."""

    def from_completions(cls: type[Prediction], list_or_dict: Any, signature: Any = None) -> Prediction:
        if cls is not Prediction or type(list_or_dict) is not list or len(list_or_dict) != 1:
            return original.__func__(cls, list_or_dict, signature=signature)  # type: ignore[attr-defined]
        columns = {}
        fields = {}
        for name, value in list_or_dict[0].items():
            columns[name] = [value]
            fields[name] = value
        completions = object.__new__(Completions)
        completions.__dict__.update(signature=signature, _completions=columns)
        prediction = object.__new__(Prediction)
        prediction.__dict__.update(_store=fields, _completions=completions, _lm_usage=None)
        return prediction

    return classmethod(from_completions)
