"""The operations that Elixir calls: :data:`OPERATIONS`, by name.

Each operation answers ``{:ok, term}`` or ``{:error, {:python_exception, details}}`` and never raises across the port.
Arguments are positional; the last one is a map of options, which may be left out. Each module contains the operations
it is named after. ``operation`` turns functions into operations, ``port_state`` holds what they share, and ``calls``
leads from the arguments of a call to its run.

``docs/operations.md`` describes the shapes of results and the messages of errors.
"""

from erlport_bridge.operations import (  # noqa: F401 - each offers its operations when it is imported
    batches,
    by_name,
    compilation,
    conversations,
    evaluation,
    exporting,
    health,
    history,
    models,
    modules,
    programs,
    running_calls,
    sessions,
    storing,
    transfer,
)
from erlport_bridge.operations.operation import OPERATIONS

__all__ = ["OPERATIONS"]
