"""Keep what outlives a call: models, sessions and stored programs, which can be written as JSON."""

from erlport_bridge.programs.sessions import stored_form
from erlport_bridge.programs.sessions.neighbours import (
    Neighbours,
    text_of_inputs,
)
from erlport_bridge.programs.sessions.program import Program, read_program_id
from erlport_bridge.programs.sessions.provided import check_changeable
from erlport_bridge.programs.sessions.registry import MAX_MEMBERS, SPEC_KEYS, Sessions
from erlport_bridge.programs.sessions.session import Session
from erlport_bridge.programs.sessions.stored_conversations import Told
from erlport_bridge.programs.sessions.stored_sessions import StoredSessions
from erlport_bridge.programs.sessions.uses import during_operation

__all__ = [
    "MAX_MEMBERS",
    "SPEC_KEYS",
    "Neighbours",
    "Program",
    "Session",
    "Sessions",
    "StoredSessions",
    "Told",
    "check_changeable",
    "during_operation",
    "read_program_id",
    "stored_form",
    "text_of_inputs",
]
