"""Run one request under its deadline, or many, and give predictions as terms."""

from erlport_bridge.programs.execution import batch, evaluation, streaming
from erlport_bridge.programs.execution.batch import (
    BatchOptions,
)
from erlport_bridge.programs.execution.metrics import (
    read_metric,
)
from erlport_bridge.programs.execution.output_checks import (
    checked,
)
from erlport_bridge.programs.execution.running import (
    META,
    SHARED_OPTIONS,
    CallOptions,
    Request,
    added_usage,
    asking,
    read_call_options,
    read_inputs,
    run,
    with_demos,
)
from erlport_bridge.programs.execution.streaming import (
    EventStream,
)

__all__ = [
    "META",
    "SHARED_OPTIONS",
    "BatchOptions",
    "CallOptions",
    "EventStream",
    "Request",
    "added_usage",
    "asking",
    "batch",
    "checked",
    "evaluation",
    "read_call_options",
    "read_inputs",
    "read_metric",
    "run",
    "streaming",
    "with_demos",
]
