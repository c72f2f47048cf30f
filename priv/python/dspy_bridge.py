"""The module that Elixir calls: it offers :data:`OPERATIONS`, each under its name, and nothing else.

Under ``python -m erlport_bridge`` the operations run side by side; imported by ErlPort's own Python half they run one
at a time, with the same results. They are written in ``erlport_bridge/operations``.
"""

from __future__ import annotations

from erlport_bridge.port import event_loop, importing, leaving, stock

with importing.bulk_import():
    from erlport_bridge import dspy_patches
    from erlport_bridge.operations import OPERATIONS
    from erlport_bridge.programs import sandbox

__all__ = ["OPERATIONS"]

leaving.before_exit(sandbox.kill_all)
event_loop.run_in_place(*dspy_patches.QUICK_MODULES)

# A port calls functions of this module by their names.
globals().update(stock.adapted(OPERATIONS) if stock.in_use() else OPERATIONS)
