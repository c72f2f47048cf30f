"""Convert terms to values for DSPy's fields, read answers of models, and convert predictions back to terms."""

from erlport_bridge.programs.values import documents, media
from erlport_bridge.programs.values.answer_fields import problem_of
from erlport_bridge.programs.values.inputs import convert, input_values
from erlport_bridge.programs.values.results import (
    plain,
)

__all__ = [
    "convert",
    "documents",
    "input_values",
    "media",
    "plain",
    "problem_of",
]
