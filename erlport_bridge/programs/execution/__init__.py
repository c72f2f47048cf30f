"""Run one call under its deadline, or many calls as a batch, and return predictions as terms."""

from erlport_bridge.programs.execution import batch, streaming
from erlport_bridge.programs.execution.batch import BATCH_OPTIONS, BatchOptions
from erlport_bridge.programs.execution.call_inputs import read_inputs, with_demos
from erlport_bridge.programs.execution.call_options import (
    COMMON_OPTIONS,
    VERSION_OPTION,
    CallOptions,
    check_spelling,
)
from erlport_bridge.programs.execution.call_request import (
    CallRequest,
    ModuleCallRequest,
    read_many_calls,
    read_module_call,
    read_program_call,
)
from erlport_bridge.programs.execution.dspy_context import dspy_context
from erlport_bridge.programs.execution.evaluation import EVALUATION_OPTIONS, Evaluation, inputs_of
from erlport_bridge.programs.execution.metrics import METRIC, MetricChoice, read_metric
from erlport_bridge.programs.execution.output_checks import checked
from erlport_bridge.programs.execution.prediction_terms import META
from erlport_bridge.programs.execution.running import PreparedRun, run
from erlport_bridge.programs.execution.streaming import STREAM_OPTIONS, EventStream
from erlport_bridge.programs.execution.trace_options import wanted_recording
from erlport_bridge.programs.execution.turns import TurnFields

__all__ = [
    "BATCH_OPTIONS",
    "COMMON_OPTIONS",
    "EVALUATION_OPTIONS",
    "META",
    "METRIC",
    "STREAM_OPTIONS",
    "VERSION_OPTION",
    "BatchOptions",
    "CallOptions",
    "CallRequest",
    "Evaluation",
    "EventStream",
    "MetricChoice",
    "ModuleCallRequest",
    "PreparedRun",
    "TurnFields",
    "batch",
    "check_spelling",
    "checked",
    "dspy_context",
    "inputs_of",
    "read_inputs",
    "read_many_calls",
    "read_metric",
    "read_module_call",
    "read_program_call",
    "run",
    "streaming",
    "wanted_recording",
    "with_demos",
]
