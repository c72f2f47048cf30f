"""Read text: strings, arguments and options of callers; arithmetic and facts in sentences."""

from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.text.arithmetic import (
    Number,
    evaluate,
    find_expression,
)
from erlport_bridge.programs.text.extraction import (
    Passages,
    dates,
    listed_items,
    nearest_sentences,
    numbers,
    sentences,
    weighted_query,
    words,
)
from erlport_bridge.programs.text.wording import (
    expected_text,
    inside,
    misspelt,
    neutral,
    quoted,
    suggestion,
    text_of,
)

__all__ = [
    "Number",
    "Passages",
    "arguments",
    "dates",
    "evaluate",
    "expected_text",
    "find_expression",
    "inside",
    "listed_items",
    "misspelt",
    "nearest_sentences",
    "neutral",
    "numbers",
    "quoted",
    "sentences",
    "suggestion",
    "text_of",
    "weighted_query",
    "words",
]
