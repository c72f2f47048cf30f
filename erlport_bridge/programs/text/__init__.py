"""Read text: strings, arguments and options of callers; arithmetic and facts in sentences."""

from erlport_bridge.programs.text import arguments, chat_text, xml_text
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
    beginning,
    expected_text,
    indented_below,
    inside,
    misspelt,
    neutral,
    quoted,
    suggestion,
    text_of,
    without_headers,
)

__all__ = [
    "Number",
    "Passages",
    "arguments",
    "beginning",
    "chat_text",
    "dates",
    "evaluate",
    "expected_text",
    "find_expression",
    "indented_below",
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
    "without_headers",
    "words",
    "xml_text",
]
