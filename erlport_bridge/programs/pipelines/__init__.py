"""Programs as data: their stages, how the stages are connected, and what their predictors have learned."""

from erlport_bridge import dspy_patches
from erlport_bridge.programs.pipelines import learned, misplaced, module_spans, pipeline, voting
from erlport_bridge.programs.pipelines.learned import Learned
from erlport_bridge.programs.pipelines.module_spec import CallPart, ModuleSpec, read_module_spec, stage_of_call
from erlport_bridge.programs.pipelines.needs import Needs, Tools, learned_tools, named_tools, storable, with_tools
from erlport_bridge.programs.pipelines.pipeline import HISTORY_FIELD, PREVIOUS, Pipeline
from erlport_bridge.programs.pipelines.program_spec import read_outputs, read_stages
from erlport_bridge.programs.pipelines.spec_models import models_of, with_models, with_models_at, without_models
from erlport_bridge.programs.pipelines.stages import Source, Stage
from erlport_bridge.programs.pipelines.voting import Voting

dspy_patches.provide("module_spans", module_spans.REPLACEMENTS)

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
    "learned_tools",
    "misplaced",
    "models_of",
    "named_tools",
    "pipeline",
    "read_module_spec",
    "read_outputs",
    "read_stages",
    "stage_of_call",
    "storable",
    "voting",
    "with_models",
    "with_models_at",
    "with_tools",
    "without_models",
]
