"""Build language models from configurations, with fallback models and limits, and choose the adapter of prompts."""

from erlport_bridge.programs.models import elixir_model
from erlport_bridge.programs.models.adapters import (
    AdapterChoice,
    read_adapter,
)
from erlport_bridge.programs.models.answer_adapters import (
    FormattedText,
    is_unreadable,
    problem_of,
    read_outputs,
    retrying,
    would_end_alike,
)
from erlport_bridge.programs.models.configuration import (
    LanguageModel,
    from_option,
    language_model,
    with_settings,
)
from erlport_bridge.programs.models.generation_settings import (
    GENERATION_SETTINGS,
    generation_setting,
    read_settings,
)
from erlport_bridge.programs.models.model_account import (
    ModelAccount,
)

__all__ = [
    "GENERATION_SETTINGS",
    "AdapterChoice",
    "FormattedText",
    "LanguageModel",
    "ModelAccount",
    "elixir_model",
    "from_option",
    "generation_setting",
    "is_unreadable",
    "language_model",
    "problem_of",
    "read_adapter",
    "read_outputs",
    "read_settings",
    "retrying",
    "with_settings",
    "would_end_alike",
]
