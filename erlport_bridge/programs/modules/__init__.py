"""The modules of DSPy that can be called: their options, and how each is built."""

from erlport_bridge.programs.modules import catalogue, retrieval
from erlport_bridge.programs.modules.application_modules import Application
from erlport_bridge.programs.modules.module_entry import (
    ModuleEntry,
)
from erlport_bridge.programs.modules.module_options import (
    EMBEDDER,
    DataOption,
    FunctionOption,
    ModelOption,
    RewardOption,
)
from erlport_bridge.programs.modules.retrieval import (
    MAX_COUNT,
    Vector,
    Vectors,
    embedded_text,
    read_vector,
)
from erlport_bridge.programs.modules.rewards import (
    ElixirReward,
    Judgement,
    Reward,
    Traced,
    entry,
    rated,
    read_reward,
)
from erlport_bridge.programs.modules.stand_ins import (
    plain_module,
    public_name,
)

__all__ = [
    "EMBEDDER",
    "MAX_COUNT",
    "Application",
    "DataOption",
    "ElixirReward",
    "FunctionOption",
    "Judgement",
    "ModelOption",
    "ModuleEntry",
    "Reward",
    "RewardOption",
    "Traced",
    "Vector",
    "Vectors",
    "catalogue",
    "embedded_text",
    "entry",
    "plain_module",
    "public_name",
    "rated",
    "read_reward",
    "read_vector",
    "retrieval",
]
