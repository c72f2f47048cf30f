"""Run code that a model wrote in a sandbox: Pyodide inside Deno, without network, with limits of time and memory."""

from erlport_bridge.programs.sandbox.interpreter import (
    DEFAULT_CODE_CALLS,
    DEFAULT_CODE_TIMEOUT_MS,
    CodeLimits,
)
from erlport_bridge.programs.sandbox.sandboxes import (
    Sandboxes,
    kill_all,
    probe,
    report,
)

__all__ = [
    "DEFAULT_CODE_CALLS",
    "DEFAULT_CODE_TIMEOUT_MS",
    "CodeLimits",
    "Sandboxes",
    "kill_all",
    "probe",
    "report",
]
