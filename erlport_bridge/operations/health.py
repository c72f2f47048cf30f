"""Whether the port is well, and what it has done: ``ping``, ``metrics`` and ``reset_metrics``."""

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
    """Answer with the versions of this side, its default model, and ``payload`` unchanged.

    What does not fit the version of DSPy is listed as ``dspy_patches_left_out``, where there is any.
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
    """Answer what this port has done so far."""
    return {**port_state.metrics.report(), **_held()}


@operation
async def reset_metrics() -> dict[str, Any]:
    """Begin to count anew; answers what ``metrics`` would have, so that nothing goes uncounted in between."""
    return {**port_state.metrics.reset(), **_held()}


def _held() -> dict[str, Any]:
    """Give what the port holds now, and what is counted since its start."""
    sessions = port_state.sessions.all()
    programs = sum(len(session.programs) for session in sessions)
    return {
        "held": {"sessions": len(sessions), "programs": programs},
        "threads": threads.report(),
        "sandboxes": sandbox.report(),
    }
