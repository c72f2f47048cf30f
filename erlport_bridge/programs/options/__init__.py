"""Define, read and describe options: each has a name, type, default, bounds and description."""

from erlport_bridge.programs.options.option import (
    BooleanOption,
    ChoiceOption,
    ExactNumberOption,
    IntegerOption,
    IntegersOption,
    NumberOption,
    Option,
    TextOption,
    TimeoutOption,
    UnreadOption,
    wrong,
)
from erlport_bridge.programs.options.vocabulary import NO_OPTIONS, Vocabulary

__all__ = [
    "NO_OPTIONS",
    "BooleanOption",
    "ChoiceOption",
    "ExactNumberOption",
    "IntegerOption",
    "IntegersOption",
    "NumberOption",
    "Option",
    "TextOption",
    "TimeoutOption",
    "UnreadOption",
    "Vocabulary",
    "wrong",
]
