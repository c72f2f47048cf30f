"""Tools that a language model may call: registered Python functions, and Elixir functions that a call passes."""

from erlport_bridge.programs.tools import elixir_tool
from erlport_bridge.programs.tools.elixir_tool import (
    ElixirTool,
    LaterTool,
)
from erlport_bridge.programs.tools.observed_tool import (
    ArgumentsError,
    CallEndedError,
    ObservedTool,
    check_names,
)
from erlport_bridge.programs.tools.offered import (
    available,
    find_tools,
    offer,
    read_tools,
)

__all__ = [
    "ArgumentsError",
    "CallEndedError",
    "ElixirTool",
    "LaterTool",
    "ObservedTool",
    "available",
    "check_names",
    "elixir_tool",
    "find_tools",
    "offer",
    "read_tools",
]
