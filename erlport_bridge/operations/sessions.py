"""List, describe and close the sessions of the port."""

from __future__ import annotations

from typing import Any

from erlport_bridge.operations import port_state
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs.text import arguments


@operation
async def list_sessions() -> list[dict[str, Any]]:
    """Answer the sessions of this port."""
    return [session.describe() for session in port_state.sessions.all()]


@operation
async def session_info(session_id: object) -> dict[str, Any]:
    """Answer what ``list_sessions`` says about one session, and its programs; this does not count as a use of it."""
    session = port_state.sessions.find(arguments.text(session_id, "session_id"), is_used=False)
    programs = [program.describe() for program in session.programs.values()]
    return {**session.describe(), "program_descriptions": programs}


@operation
async def close_session(session_id: object) -> dict[str, Any]:
    """Close a session and delete its programs; answer its description."""
    return port_state.sessions.close(arguments.text(session_id, "session_id")).describe()
