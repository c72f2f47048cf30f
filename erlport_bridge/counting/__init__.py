"""Count calls, durations, tokens and cost of this port; nothing here knows DSPy."""

from erlport_bridge.counting.counters import (
    PORT_COUNTERS,
)
from erlport_bridge.counting.tallies import (
    Durations,
    Spent,
)

__all__ = ["PORT_COUNTERS", "Durations", "Spent"]
