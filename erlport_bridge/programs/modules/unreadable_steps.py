"""Word what an agent's model reads about a step of its own that cannot be read."""

from __future__ import annotations

from typing import Final

from dspy.utils.exceptions import AdapterParseError

from erlport_bridge.programs.models import problem_of
from erlport_bridge.programs.text import neutral

_MAX_QUOTED_CHARACTERS: Final = 1_000


def answer_of(error: Exception) -> str:
    """Return the answer that cannot be read, shortened; empty if the error does not have it."""
    return error.lm_response[:_MAX_QUOTED_CHARACTERS] if isinstance(error, AdapterParseError) else ""


def observation_of(error: Exception) -> str:
    """Return one sentence about the answer, as the observation of its step."""
    return f"Error in this step: {neutral(' '.join(problem_of(error).split()))}"
