"""The embedded model, for demonstrations and tests: answers prompts deterministically, from the given text alone."""

from erlport_bridge.programs.models.embedded.engine import DESCRIPTION, embedded_model

__all__ = ["DESCRIPTION", "embedded_model"]
