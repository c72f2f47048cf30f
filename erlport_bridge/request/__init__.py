"""Track the request that the current code runs for: its id, its deadline, its stage, its turn on the event loop."""

from erlport_bridge.request import turns
from erlport_bridge.request.context import (
    Deadline,
    begin,
    cancel,
    is_silent,
    queued,
    received_at,
    request_id,
)
from erlport_bridge.request.progress import (
    Progress,
    current_progress,
    within,
)

__all__ = [
    "Deadline",
    "Progress",
    "begin",
    "cancel",
    "current_progress",
    "is_silent",
    "queued",
    "received_at",
    "request_id",
    "turns",
    "within",
]
