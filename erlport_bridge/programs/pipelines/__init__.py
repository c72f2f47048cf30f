"""Hold a program as data: its stages, what connects them, and what it has learned."""

from erlport_bridge.programs.pipelines import learned, pipeline, stages, voting
from erlport_bridge.programs.pipelines.learned import (
    Learned,
)
from erlport_bridge.programs.pipelines.pipeline import (
    HISTORY_FIELD,
    PREVIOUS,
    Pipeline,
)
from erlport_bridge.programs.pipelines.stages import (
    CallPart,
    Source,
    Stage,
)
from erlport_bridge.programs.pipelines.voting import (
    Voting,
)

__all__ = [
    "HISTORY_FIELD",
    "PREVIOUS",
    "CallPart",
    "Learned",
    "Pipeline",
    "Source",
    "Stage",
    "Voting",
    "learned",
    "pipeline",
    "stages",
    "voting",
]
