"""Convert terms to values for DSPy's fields, read answers of models, and convert predictions back to terms."""

from erlport_bridge.programs.values import documents, media
from erlport_bridge.programs.values.answer_fields import AnswerError, problem_of, read_fields
from erlport_bridge.programs.values.answers import UnreadableError, check_texts, read_json, read_object
from erlport_bridge.programs.values.inputs import convert, input_values, require_compared, require_inputs
from erlport_bridge.programs.values.results import (
    plain,
)

__all__ = [
    "AnswerError",
    "UnreadableError",
    "check_texts",
    "convert",
    "documents",
    "input_values",
    "media",
    "plain",
    "problem_of",
    "read_fields",
    "read_json",
    "read_object",
    "require_compared",
    "require_inputs",
]
