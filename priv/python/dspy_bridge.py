"""Offer the operations to Elixir: each function of :data:`OPERATIONS` under its name, and nothing else.

Under ``python -m erlport_bridge`` the operations run concurrently. Under ErlPort's own Python half they run one at a
time, with the same results. The package ``erlport_bridge/operations`` defines them.
"""

from __future__ import annotations

from erlport_bridge.port import event_loop, importing, leaving, stock

with importing.bulk_import():
    from erlport_bridge import dspy_patches
    from erlport_bridge.operations import OPERATIONS, port_state
    from erlport_bridge.programs import sandbox
    from erlport_bridge.tracing import exporting

__all__ = ["OPERATIONS"]

leaving.before_exit(sandbox.kill_all)
leaving.before_exit(exporting.stop)
leaving.before_exit(port_state.stored.leave)
event_loop.run_in_place(*dspy_patches.QUICK_MODULES)

# A port looks up functions of this module by name.
globals().update(stock.adapted(OPERATIONS) if stock.in_use() else OPERATIONS)
