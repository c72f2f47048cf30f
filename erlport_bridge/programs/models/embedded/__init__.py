"""Answer prompts from the given text alone, deterministically: the model of demonstrations and tests."""

from erlport_bridge.programs.models.embedded.engine import DESCRIPTION, embedded_model

__all__ = ["DESCRIPTION", "embedded_model"]
