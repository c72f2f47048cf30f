"""What the operations of a port share: its sessions, and the counts of what it has done."""

from __future__ import annotations

from typing import Final

from erlport_bridge.programs.metrics import PORT_METRICS
from erlport_bridge.programs.sessions import Sessions

sessions: Final = Sessions.from_environment()
metrics: Final = PORT_METRICS
