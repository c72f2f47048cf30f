"""Open, list, describe and close the sessions of the port."""

from __future__ import annotations

from typing import Any

from erlport_bridge.limits import ID_BYTES
from erlport_bridge.operations import port_state
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs.models import BUDGET_OPTIONS
from erlport_bridge.programs.text import arguments


@operation
async def open_session(session_id: object, opts: object = None) -> dict[str, Any]:
    """Open a session, or set what a session may spend that is open; answer its description.

    ``opts``: ``max_cost`` and ``max_tokens_total``; what is left out stays as it is, and ``nil`` is no limit. What was
    spent stays.
    """
    given = arguments.options(opts, "opts")
    read = BUDGET_OPTIONS.read_all(given)
    limits = {name: read[name] for name in given}
    return await port_state.stored.open(arguments.text(session_id, "session_id", ID_BYTES), limits)


@operation
async def list_sessions() -> list[dict[str, Any]]:
    """Answer the sessions of this port, or of its store."""
    return await port_state.stored.all()


@operation
async def session_info(session_id: object) -> dict[str, Any]:
    """Answer what ``list_sessions`` says about one session, and its programs; this does not count as a use of it."""
    name = arguments.text(session_id, "session_id", ID_BYTES)
    described = await port_state.stored.describe(name)
    return {**described, "program_descriptions": await port_state.stored.programs(name, is_used=False)}


@operation
async def close_session(session_id: object) -> dict[str, Any]:
    """Close a session and delete its programs; answer its description."""
    return await port_state.stored.close(arguments.text(session_id, "session_id", ID_BYTES))
