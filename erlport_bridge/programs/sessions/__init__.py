"""Keep what outlives a call: models, sessions and stored programs, which can be written as JSON."""

from erlport_bridge.programs.sessions import stored_form
from erlport_bridge.programs.sessions.conversations import Conversation
from erlport_bridge.programs.sessions.neighbours import (
    Neighbours,
    text_of_inputs,
)
from erlport_bridge.programs.sessions.registry import (
    MAX_MEMBERS,
    Program,
    Sessions,
)

__all__ = [
    "MAX_MEMBERS",
    "Conversation",
    "Neighbours",
    "Program",
    "Sessions",
    "stored_form",
    "text_of_inputs",
]
