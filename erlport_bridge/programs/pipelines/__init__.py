"""Programs as data: their stages, how the stages are connected, and what their predictors have learned."""

from erlport_bridge.programs.pipelines import learned, pipeline, voting
from erlport_bridge.programs.pipelines.learned import Learned
from erlport_bridge.programs.pipelines.module_spec import CallPart, ModuleSpec, read_module_spec, stage_of_call
from erlport_bridge.programs.pipelines.needs import Needs, Tools, storable, with_names, with_tools
from erlport_bridge.programs.pipelines.pipeline import HISTORY_FIELD, PREVIOUS, Pipeline
from erlport_bridge.programs.pipelines.stages import Source, Stage
from erlport_bridge.programs.pipelines.voting import Voting

__all__ = [
    "HISTORY_FIELD",
    "PREVIOUS",
    "CallPart",
    "Learned",
    "ModuleSpec",
    "Needs",
    "Pipeline",
    "Source",
    "Stage",
    "Tools",
    "Voting",
    "learned",
    "pipeline",
    "read_module_spec",
    "stage_of_call",
    "storable",
    "voting",
    "with_names",
    "with_tools",
]
