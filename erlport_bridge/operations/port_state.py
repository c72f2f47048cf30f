"""Hold what the operations of a port share: its sessions and its counters."""

from __future__ import annotations

from typing import Final

from erlport_bridge.counting import PORT_COUNTERS
from erlport_bridge.programs.sessions import Sessions

sessions: Final = Sessions.from_environment()
metrics: Final = PORT_COUNTERS
