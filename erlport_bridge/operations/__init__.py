"""The operations that Elixir calls: :data:`OPERATIONS`, by name.

Each answers ``{:ok, term}`` or ``{:error, {:python_exception, details}}`` and never raises across the port. Arguments
are positional; the last is a map of options that may be left out. Each module here holds the operations that it is
named after; ``registry`` makes functions operations, ``port_state`` is what they share, and ``requests`` what those
that execute something have in common.

The messages of errors and the shapes of results are described in ``docs/operations.md``.
"""

from erlport_bridge.operations import (  # noqa: F401 - each offers its operations when it is imported
    batches,
    by_name,
    compilation,
    conversations,
    evaluation,
    health,
    models,
    modules,
    programs,
    running_calls,
    sessions,
    storing,
)
from erlport_bridge.operations.operation import OPERATIONS

__all__ = ["OPERATIONS"]
