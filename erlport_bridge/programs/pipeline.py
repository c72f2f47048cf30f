"""A program as data: stages that run one after the other, each a DSPy module with a signature.

Every stage gets the program's inputs and what earlier stages gave. Stages that share one signature are told apart by
the inputs ``previous_<field>``, which hold what the stage before gave.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments, catalogue, tools
from erlport_bridge.programs.catalogue import ModuleEntry
from erlport_bridge.programs.elixir_tool import ElixirTool
from erlport_bridge.programs.signatures import Field, SignatureSpec, build_signature, parse_signature
from erlport_bridge.programs.values import input_values, plain
from erlport_bridge.term.inspecting import shown

HISTORY_FIELD: Final = "history"
_PREVIOUS: Final = "previous_"
_MAX_STAGES: Final = 20
_STAGE_KEYS: Final = frozenset({"module", "signature", "instructions", "options", "tools"})


@dataclass(frozen=True)
class Stage:
    """One module with its signature, ready to be built."""

    entry: ModuleEntry
    spec: SignatureSpec
    options: tuple[tuple[str, Any], ...] = ()
    tools: tuple[str | ElixirTool, ...] = ()

    def build(self) -> dspy.Module:
        """Build the module."""
        return self.entry.build(build_signature(self.spec), dict(self.options), tools.find_tools(list(self.tools)))

    def describe(self) -> dict[str, Any]:
        """Give the stage as a term."""
        return {
            "module": self.entry.name,
            "signature": self.spec.text,
            "options": dict(self.options),
            "tools": [tool.name if isinstance(tool, ElixirTool) else tool for tool in self.tools],
        }


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Stages that run one after the other."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.modules = [stage.build() for stage in stages]

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run all stages; a field that several stages give has the last one's value."""
        merged: dict[str, Any] = {}
        earlier: dict[str, Any] = {}
        for stage, module in zip(self.stages, self.modules, strict=True):
            prediction = await module.acall(**_stage_inputs(stage, inputs, earlier))
            outputs = dict(prediction.items())
            merged.update(outputs)
            earlier.update(outputs)
            earlier.update({_PREVIOUS + name: value for name, value in outputs.items()})
        # A single stage's prediction has its completions, which merged ones do not have.
        return prediction if len(self.modules) == 1 else dspy.Prediction(**merged)


@functools.lru_cache(maxsize=256)
def built(stages: tuple[Stage, ...]) -> Pipeline:
    """Give the module for stages: the same one for equal stages, as building one costs more than all else here."""
    return Pipeline(stages)


def _stage_inputs(stage: Stage, inputs: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Give a stage's inputs: the program's own as they are, and what earlier stages gave, checked like a caller's.

    What a model wrote is data to the next stage: it must have the type of the field, and must not pose as structure.
    """
    passed = {field.name for field in stage.spec.inputs if field.name in inputs}
    passed.update(name for name in stage.entry.optional_inputs if name in inputs)
    fields = tuple(field for field in stage.spec.inputs if field.name not in passed)
    given = {field.name: plain(earlier[field.name]) for field in fields}
    checked = input_values(SignatureSpec(fields, (), None), given, path=f"the inputs of {stage.entry.name}")
    return {name: inputs[name] for name in passed} | checked


def read_stages(
    modules: object, shared: SignatureSpec | None, *, history: bool = False
) -> tuple[tuple[Stage, ...], SignatureSpec]:
    """Read the stages of a program.

    Args:
        modules: A list; each item a module's name, or a map with ``module`` and, if it differs from the shared one,
            ``signature``, ``instructions``, ``options`` (of the constructor) and ``tools``.
        shared: The signature of every stage that has none of its own.
        history: Every stage takes the conversation so far as its first input.

    Returns:
        The stages, and the signature of the whole: the inputs it takes and the outputs it gives.

    Raises:
        OperationError: A module is unknown, a signature is malformed, or a stage needs an input that nobody gives.
    """
    if not isinstance(modules, list) or not 0 < len(modules) <= _MAX_STAGES:
        raise OperationError(
            "input",
            f"expected a list of 1 to {_MAX_STAGES} modules at spec.modules, got {shown(modules)}",
            path="spec.modules",
        )
    stages: list[Stage] = []
    for index, item in enumerate(modules):
        stages.append(_read_stage(item, shared, stages, f"spec.modules[{index}]"))
    whole = _whole_signature(stages, shared)
    if history:
        stages = [replace(stage, spec=_with_history(stage.spec)) for stage in stages]
        whole = _with_history(whole)
    return tuple(stages), whole


def _read_stage(item: object, shared: SignatureSpec | None, earlier: Sequence[Stage], path: str) -> Stage:
    given = {"module": item} if isinstance(item, str) else arguments.options(item, path)
    arguments.only(given, _STAGE_KEYS, "key", path)
    entry = catalogue.find_module(given.get("module"))
    options = arguments.options(given.get("options"), f"{path}.options")
    arguments.only(options, [option.name for option in entry.options], f"option of {entry.name}", f"{path}.options")
    if "signature" in given:
        spec = parse_signature(given["signature"], instructions=given.get("instructions"), reserved=entry.reserved)
    elif shared is None:
        raise OperationError("signature", f"expected a signature at spec.signature or {path}.signature", path=path)
    else:
        spec = _shared_signature(shared, entry, earlier)
    names = _read_tool_names(given.get("tools"), entry, f"{path}.tools")
    checked = entry.check_options(options, f"{path}.options")
    return Stage(entry, spec, tuple(sorted(checked.items())), names)


def _shared_signature(shared: SignatureSpec, entry: ModuleEntry, earlier: Sequence[Stage]) -> SignatureSpec:
    """Give the shared signature as one stage has it: with the answer of the stage before."""
    for field in (*shared.inputs, *shared.outputs):
        if field.name in entry.reserved:
            raise OperationError(
                "signature", f'the field "{field.name}" is reserved by {entry.name}; rename it', path="spec.signature"
            )
    if not earlier:
        return shared
    previous = tuple(
        Field(_PREVIOUS + field.name, field.type_text, field.annotation, f"what the stage before gave as {field.name}")
        for field in earlier[-1].spec.outputs
    )
    return replace(shared, inputs=shared.inputs + previous)


def _whole_signature(stages: Sequence[Stage], shared: SignatureSpec | None) -> SignatureSpec:
    inputs: dict[str, Field] = {field.name: field for field in shared.inputs} if shared else {}
    outputs: dict[str, Field] = {}
    for number, stage in enumerate(stages, 1):
        for field in stage.spec.inputs:
            if field.name in inputs or field.name in outputs or field.name.removeprefix(_PREVIOUS) in outputs:
                continue
            if shared is not None:
                given = ", ".join([*inputs, *outputs])
                raise OperationError(
                    "signature",
                    f'stage {number} ({stage.entry.name}) needs "{field.name}", which neither the inputs nor an '
                    f"earlier stage gives; given: {given}",
                    path=f"spec.modules[{number - 1}].signature",
                )
            inputs[field.name] = field
        outputs.update({field.name: field for field in stage.spec.outputs})
    return SignatureSpec(tuple(inputs.values()), tuple(outputs.values()), shared.instructions if shared else None)


def _with_history(spec: SignatureSpec) -> SignatureSpec:
    if any(field.name == HISTORY_FIELD for field in spec.inputs):
        raise OperationError(
            "signature",
            f'the field "{HISTORY_FIELD}" is kept by the program itself; leave it out of the signature, '
            f"or leave out spec.history",
            path="spec.signature",
        )
    field = Field(HISTORY_FIELD, "dspy.History", dspy.History)
    return replace(spec, inputs=(field, *spec.inputs))


def read_tools(value: object, entry: ModuleEntry, path: str) -> tuple[str | ElixirTool, ...]:
    """Read a list of tools, names and functions of Elixir, for a module that takes tools."""
    if value is None or value == []:
        return ()
    if not entry.takes_tools:
        raise OperationError("input", f"{entry.name} takes no tools at {path}", path=path)
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of tools at {path}, got {shown(value)}", path=path)
    read = tools.read_tools(value, path)
    for index, tool in enumerate(read):
        name, where = tool.name if isinstance(tool, ElixirTool) else tool, f"{path}[{index}]"
        if name in entry.reserved_tools:
            message = f'the tool "{name}" at {where} has the name of one of {entry.name} itself; give it another one'
            raise OperationError("tool", message, path=where)
    return read


def _read_tool_names(value: object, entry: ModuleEntry, path: str) -> tuple[str | ElixirTool, ...]:
    """Read a list of tools for a program, which outlives the call that creates it."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, Mapping):
            where = f"{path}[{index}]"
            raise OperationError(
                "input",
                f"expected the name of a tool at {where}, got a function of Elixir, which can be called only while the "
                "call lasts that brings it; give it to execute_module",
                path=where,
            )
    return read_tools(value, entry, path)
