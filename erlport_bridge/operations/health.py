"""Report whether the port is well, and what it has done: ``ping``, ``metrics`` and ``reset_metrics``."""

from __future__ import annotations

import platform
import sys
from typing import Any

import dspy

import erlport_bridge
from erlport_bridge import dspy_patches, threads
from erlport_bridge.operations import port_state
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs import sandbox
from erlport_bridge.term import IMPLEMENTATION


@operation
def ping(payload: object = None) -> dict[str, Any]:
    """Answer the versions of the Python side, its default model, and ``payload`` unchanged.

    Patches of DSPy that do not fit its version are listed as ``dspy_patches_left_out``, if there are any.
    """
    default = port_state.sessions.default_model()
    left_out = dspy_patches.left_out()
    return {
        "erlport_bridge": erlport_bridge.__version__,
        "dspy": dspy.__version__,
        "python": platform.python_version(),
        "codec": IMPLEMENTATION,
        "executable": sys.executable,
        "model": default.describe() if default else None,
        "payload": payload,
        **({"dspy_patches_left_out": left_out} if left_out else {}),
    }


@operation
async def metrics() -> dict[str, Any]:
    """Answer the counters of this port."""
    return {**port_state.metrics.report(), **_held()}


@operation
async def reset_metrics() -> dict[str, Any]:
    """Answer the counters as ``metrics`` does and reset them, in one step, so that no call goes uncounted."""
    return {**port_state.metrics.reset(), **_held()}


def _held() -> dict[str, Any]:
    """Return what the port holds now, and the counters that are never reset."""
    sessions = port_state.sessions.all()
    programs = sum(len(session.programs) for session in sessions)
    return {
        "held": {"sessions": len(sessions), "programs": programs},
        "threads": threads.report(),
        "sandboxes": sandbox.report(),
    }
