"""Build language models from configurations, with fallback models and limits, and choose the adapter of prompts."""

from erlport_bridge.programs.models import budgets, elixir_model, history, own_models, recipes
from erlport_bridge.programs.models.adapters import (
    AdapterChoice,
    read_adapter,
)
from erlport_bridge.programs.models.answer_adapters import FormattedText
from erlport_bridge.programs.models.asking_again import (
    is_unreadable,
    problem_of,
    read_outputs,
    retrying,
    would_end_alike,
)
from erlport_bridge.programs.models.budgets import (
    BUDGET_OPTIONS,
    SHARED_BUDGETS,
    Budget,
    BudgetLimits,
    SharedBudget,
)
from erlport_bridge.programs.models.configuration import (
    MODEL_OPTIONS,
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
from erlport_bridge.programs.models.kept_answers import KeptAnswers, keeping
from erlport_bridge.programs.models.model_account import (
    ModelAccount,
    added_usage,
)
from erlport_bridge.programs.models.own_models import OwnModels

__all__ = [
    "BUDGET_OPTIONS",
    "GENERATION_SETTINGS",
    "MODEL_OPTIONS",
    "SHARED_BUDGETS",
    "AdapterChoice",
    "Budget",
    "BudgetLimits",
    "FormattedText",
    "KeptAnswers",
    "LanguageModel",
    "ModelAccount",
    "OwnModels",
    "SharedBudget",
    "added_usage",
    "budgets",
    "elixir_model",
    "from_option",
    "generation_setting",
    "history",
    "is_unreadable",
    "keeping",
    "language_model",
    "own_models",
    "problem_of",
    "read_adapter",
    "read_outputs",
    "read_settings",
    "recipes",
    "retrying",
    "with_settings",
    "would_end_alike",
]
