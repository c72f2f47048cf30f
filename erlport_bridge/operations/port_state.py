"""Hold what the operations of a port share: its sessions, their store and its counters."""

from __future__ import annotations

from typing import Final

from erlport_bridge.counting import PORT_COUNTERS
from erlport_bridge.limits import check_environment
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs.sessions import Sessions, StoredSessions

check_environment()
sessions: Final = Sessions.from_environment()
stored: Final = StoredSessions.from_environment(sessions, nearest.read)
metrics: Final = PORT_COUNTERS
