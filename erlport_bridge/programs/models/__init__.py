"""Build language models from configurations, with fallback models and limits, and choose the adapter of prompts."""

from erlport_bridge.programs.models import elixir_model
from erlport_bridge.programs.models.adapters import (
    AdapterChoice,
    read_adapter,
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
    "LanguageModel",
    "ModelAccount",
    "elixir_model",
    "from_option",
    "generation_setting",
    "language_model",
    "read_adapter",
    "read_settings",
    "with_settings",
]
