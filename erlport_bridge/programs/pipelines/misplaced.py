"""Say where a key belongs that stands in the wrong place of a spec: in errors about unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from erlport_bridge.programs.models import GENERATION_SETTINGS
from erlport_bridge.programs.modules import catalogue

_OF_CALLS: Final = ("adapter", "demos", "lm", "parse_retries", "session_id", "timeout", *GENERATION_SETTINGS)
_OF_MODULES: Final = sorted({option.name for entry in catalogue.MODULES.values() for option in entry.options})
_IN_CONFIG: Final = {
    name: f"settings stand in the program's config: config: %{{{name}: …}}" for name in GENERATION_SETTINGS
}
_DEMOS: Final = "a program has demos from compile_program, such as with dspy.LabeledFewShot"

#: For the spec of a module that a call runs.
IN_MODULE: Final[Mapping[str, str]] = {
    name: f"it is an option of the call, beside the spec: execute_module(spec, signature, inputs, {name}: …)"
    for name in _OF_CALLS
}
#: For the spec of a stage of a program.
IN_STAGE: Final[Mapping[str, str]] = {
    **dict.fromkeys(_OF_CALLS, "it is an option of the calls of the program"),
    **_IN_CONFIG,
    "demos": _DEMOS,
}
#: For the spec of a program.
IN_PROGRAM: Final[Mapping[str, str]] = {
    **dict.fromkeys(("timeout", "session_id", "pool", "strict"), "it is an option, in the argument after the spec"),
    **dict.fromkeys(("adapter", "parse_retries"), IN_STAGE["adapter"]),
    **dict.fromkeys(("model", "llm"), "the program's own model is lm"),
    **dict.fromkeys(("stages", "steps"), "a list of stages is modules"),
    **dict.fromkeys(("demos", "examples"), _DEMOS),
    **_IN_CONFIG,
    **{
        name: f"it belongs to a module: modules: [%{{module: …, {name}: …}}]"
        for name in (*_OF_MODULES, "tools", "of", "inputs", "lms", "name")
    },
}
