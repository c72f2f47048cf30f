"""Report whether the port is well, and what it has done: ``ping``, ``metrics`` and ``reset_metrics``."""

from __future__ import annotations

import platform
import sys
from typing import Any, Final

import dspy

import erlport_bridge
from erlport_bridge import dspy_patches, threads, worker
from erlport_bridge.operations import port_state
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs import sandbox
from erlport_bridge.programs.options import BooleanOption, Vocabulary
from erlport_bridge.term import IMPLEMENTATION

_METRICS_OPTIONS: Final = Vocabulary(
    BooleanOption(name="buckets", default=False, description="the counts from which percentiles are computed")
)


@operation
def ping(payload: object = None) -> dict[str, Any]:
    """Answer the versions of the Python side, its default model, the state of its store, and ``payload`` unchanged.

    Patches of DSPy that do not fit its version are listed as ``dspy_patches_left_out``, if there are any.
    """
    default = port_state.sessions.default_model()
    store = port_state.stored.store
    left_out = dspy_patches.left_out()
    return {
        "erlport_bridge": erlport_bridge.__version__,
        "dspy": dspy.__version__,
        "python": platform.python_version(),
        "codec": IMPLEMENTATION,
        "executable": sys.executable,
        **worker.identity(),
        "model": default.describe() if default else None,
        "payload": payload,
        "store": store.describe() if store else None,
        **({"dspy_patches_left_out": left_out} if left_out else {}),
    }


@operation
async def metrics(opts: object = None) -> dict[str, Any]:
    """Answer the counters of this port; with ``buckets`` also what is needed to add those of several ports."""
    buckets: bool = _METRICS_OPTIONS.read_all(opts)["buckets"]
    return {**port_state.metrics.report(buckets=buckets), **_held()}


@operation
async def reset_metrics(opts: object = None) -> dict[str, Any]:
    """Answer the counters as ``metrics`` does and reset them, in one step, so that no call goes uncounted."""
    buckets: bool = _METRICS_OPTIONS.read_all(opts)["buckets"]
    return {**port_state.metrics.reset(buckets=buckets), **_held()}


def _held() -> dict[str, Any]:
    """Return what the port holds now, and the counters that are never reset."""
    sessions = port_state.sessions.all()
    programs = sum(len(session.programs) for session in sessions)
    return {
        **worker.identity(),
        "held": {"sessions": len(sessions), "programs": programs},
        "threads": threads.report(),
        "sandboxes": sandbox.report(),
    }
