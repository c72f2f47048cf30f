"""Show the last requests to models: ``history``."""

from __future__ import annotations

from typing import Any

from erlport_bridge.operations.operation import operation
from erlport_bridge.programs.models import history as requests
from erlport_bridge.request import weight

requests.check_mode()


@operation
async def history(opts: object = None) -> list[dict[str, Any]]:
    """Answer the last requests to models of this port, the oldest first.

    ``opts``: ``n`` (20), ``request_id``, ``session_id``.
    """
    given = requests.HISTORY_OPTIONS.read_all(opts)
    return await weight.aside(requests.last, given, heavy=requests.has_texts())
