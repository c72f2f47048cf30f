"""Track the request that the current code runs for: its id, deadline, stage, weight, and turn on the event loop."""

from erlport_bridge.request import asking, running, turns, weight
from erlport_bridge.request.assigned import Assigned
from erlport_bridge.request.context import (
    Deadline,
    begin,
    caller,
    caller_context,
    cancel,
    ends_at,
    has_result,
    is_silent,
    queued,
    received_at,
    request_id,
)
from erlport_bridge.request.fair_queue import FairQueue
from erlport_bridge.request.progress import (
    Progress,
    current_progress,
    within,
)
from erlport_bridge.request.time_limit import within_time

__all__ = [
    "Assigned",
    "Deadline",
    "FairQueue",
    "Progress",
    "asking",
    "begin",
    "caller",
    "caller_context",
    "cancel",
    "current_progress",
    "ends_at",
    "has_result",
    "is_silent",
    "queued",
    "received_at",
    "request_id",
    "running",
    "turns",
    "weight",
    "within",
    "within_time",
]
