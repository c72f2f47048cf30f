"""The module that Elixir calls: it offers :data:`OPERATIONS`, each under its name, and nothing else.

Under ``python -m erlport_bridge`` the operations run side by side; imported by ErlPort's own Python half they run one
at a time, with the same results. They are written in ``erlport_bridge/operations``.
"""

from __future__ import annotations

from erlport_bridge.port import event_loop, importing, leaving, stock

with importing.bulk_import():
    from erlport_bridge.dspy_patches import shortcuts
    from erlport_bridge.operations import OPERATIONS
    from erlport_bridge.optimizing import program_code, trainee
    from erlport_bridge.programs import sandbox

__all__ = ["OPERATIONS"]

leaving.before_exit(sandbox.kill_all)
shortcuts.install()
trainee.install()
program_code.install()
# Preparing a request and looking up its price: 20 us each, or what a cache on the disk takes. They wait for nobody.
event_loop.run_in_place("dspy.clients.execution", "dspy.clients.capabilities")

# A port calls functions of this module by their names.
globals().update(stock.adapted(OPERATIONS) if stock.in_use() else OPERATIONS)
