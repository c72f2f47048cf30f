"""Read the spec of a program: its stages, how they are connected, and the fields that it returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import dspy

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.programs.models import from_option
from erlport_bridge.programs.pipelines.module_spec import (
    SignatureSource,
    read_module_spec,
    stage_of,
)
from erlport_bridge.programs.pipelines.needs import spec_is_map
from erlport_bridge.programs.pipelines.pipeline import HISTORY_FIELD, PREVIOUS
from erlport_bridge.programs.pipelines.stages import Source, Stage
from erlport_bridge.programs.signatures import Field, Reserved, SignatureSpec, parse_signature
from erlport_bridge.programs.text import arguments, quoted, suggestion
from erlport_bridge.term import shown

MAX_STAGES: Final = 20
#: The name of the program's own inputs in a reference.
_INPUTS: Final = "inputs"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def read_stages(
    modules: object,
    shared: SignatureSpec | None,
    *,
    history: bool = False,
) -> tuple[tuple[Stage, ...], SignatureSpec]:
    """Read the stages of a program.

    Args:
        modules: A list of specs (:mod:`.module_spec`), each of which may also have ``name``, ``inputs``, ``lm``
            and ``lms``.
        shared: The signature of every stage that has none of its own.
        history: Whether every stage has the conversation so far as its first input.

    Returns:
        The stages, and the signature of the whole program: its inputs and its outputs.

    Raises:
        OperationError: A module is unknown, a signature is malformed, or nothing supplies an input of a stage.
    """
    if isinstance(modules, list) and len(modules) > MAX_STAGES:
        message = f"expected at most {MAX_STAGES} modules at spec.modules, got {len(modules)}"
        raise OperationError("input", message, path="spec.modules", limit=MAX_STAGES)
    if not isinstance(modules, list) or not modules:
        raise OperationError(
            "input",
            f'expected a list of 1 to {MAX_STAGES} modules at spec.modules, such as ["dspy.Predict"], '
            f"got {shown(modules)}",
            path="spec.modules",
        )
    stages: list[Stage] = []
    for index, item in enumerate(modules):
        stages.append(_read_stage(item, shared, stages, f"spec.modules[{index}]"))
    whole = _whole_signature(stages, shared)
    if history:
        # A module with an optional input `history` of its own receives the conversation there.
        stages = [
            stage if HISTORY_FIELD in stage.optional_inputs else stage.with_spec(_with_history(stage.spec))
            for stage in stages
        ]
        whole = _with_history(whole)
    return tuple(stages), whole


def read_outputs(
    value: object, stages: Sequence[Stage], whole: SignatureSpec
) -> tuple[tuple[tuple[str, Source], ...] | None, SignatureSpec]:
    """Read which fields a program returns.

    Args:
        value: A list of references, where each output has the name of its field; a map from names to references; or
            ``nil`` for all fields.
        stages: The program's stages.
        whole: The signature of the whole program.

    Returns:
        The outputs for :class:`Pipeline`, and the signature with these outputs.

    Raises:
        OperationError: Of kind ``input``, with the path: an unknown reference, or a repeated name.
    """
    if value is None:
        return None, whole
    path = "spec.outputs"
    wanted: list[tuple[str | None, object, str]]
    if isinstance(value, list) and not spec_is_map(value):
        wanted = [(None, item, f"{path}[{index}]") for index, item in enumerate(value)]
    else:
        wanted = [(name, item, f"{path}.{name}") for name, item in arguments.options(value, path).items()]
    if not wanted:
        raise OperationError("input", f"expected at least one field at {path}", path=path)
    read: dict[str, Source] = {}
    fields = []
    for name, item, where in wanted:
        source = _read_source(item, stages, where, of_inputs=False)
        name = source.name if name is None else name
        if name in read:
            raise OperationError("input", f"expected each name once, got {quoted(name)} again at {where}", path=where)
        if not name.isidentifier():
            raise OperationError(
                "input", f"expected an identifier as a name at {where}, got {quoted(name)}", path=where
            )
        read[name] = source
        fields.append(replace(_field_of(source, stages), name=name))
    return tuple(read.items()), replace(whole, outputs=tuple(fields))


def _field_of(source: Source, stages: Sequence[Stage]) -> Field:
    outputs = stages[source.stage or 0].spec.outputs
    # A field that a module adds to the outputs of its signature has no declared type.
    return next((item for item in outputs if item.name == source.name), Field(source.name, "Any", Any))


def _read_stage(
    item: object,
    shared: SignatureSpec | None,
    earlier: Sequence[Stage],
    path: str,
) -> Stage:
    spec = read_module_spec(item, path, beside=("name", "inputs", "lm", "lms"))
    name, inputs, lm, lms = (spec.beside.get(key) for key in ("name", "inputs", "lm", "lms"))
    stage = stage_of(spec, _signature_source(shared, earlier, path), stored=True)
    if name is not None:
        stage = replace(stage, name=_read_name(name, earlier, f"{path}.name"))
    if lm is not None or lms is not None:
        if stage.name is None:
            message = f"expected a name for a stage with its own model at {path}.name"
            raise OperationError("input", message, path=f"{path}.name")
        stage = replace(stage, model=None if lm is None else from_option(lm, f"{path}.lm"))
        stage = _with_predictor_models(stage, lms, f"{path}.lms")
    if inputs is None:
        return stage
    given = arguments.options(inputs, f"{path}.inputs")
    known = [*(field.name for field in stage.spec.inputs), *stage.optional_inputs]
    arguments.only(given, known, f"input of {stage.entry.name}", f"{path}.inputs")
    sources = {key: _read_source(value, earlier, f"{path}.inputs.{key}") for key, value in given.items()}
    return replace(stage, sources=tuple(sources.items()))


def _with_predictor_models(stage: Stage, lms: object, path: str) -> Stage:
    given = {name: lm for name, lm in arguments.options(lms, path).items() if lm is not None}
    if not given:
        return stage
    dspy_patches.require("predictor_models", "models of single predictors")
    names = stage.predictor_names()
    if not names:
        message = f"{stage.entry.name} has no predictors that could have different models at {path}"
        remedy = "; give the stage its model as lm" if stage.asks_model else ""
        raise OperationError("input", message + remedy, path=path)
    arguments.only(given, names, f"predictor of {stage.entry.name}", path)
    models = {name: from_option(lm, f"{path}.{name}") for name, lm in given.items()}
    return replace(stage, predictor_models=models, names_all_models=set(names) == set(models))


def _read_name(value: object, earlier: Sequence[Stage], path: str) -> str:
    name = arguments.text(value, path, NAME_BYTES)
    if not _NAME.fullmatch(name) or name == _INPUTS:
        message = f'expected letters, digits and _ as the name of a stage, and not "{_INPUTS}", at {path}'
        raise OperationError("input", f"{message}, got {quoted(name)}", path=path)
    if any(stage.name == name for stage in earlier):
        raise OperationError("input", f"expected a name of its own at {path}, got {quoted(name)} again", path=path)
    return name


def _read_source(value: object, earlier: Sequence[Stage], path: str, *, of_inputs: bool = True) -> Source:
    """Read a reference: ``"stage.field"``, or ``"field"`` and ``"inputs.field"`` for an input of the program."""
    text = arguments.text(value, path, NAME_BYTES)
    stage_name, _, field = text.rpartition(".")
    names = {stage.name: index for index, stage in enumerate(earlier) if stage.name}
    if of_inputs and stage_name in ("", _INPUTS):
        _check_input_name(field, path)
        return Source(None, field, text)
    if not stage_name:
        # The last stage that returns the field.
        index = max((index for index, stage in enumerate(earlier) if field in stage.fields), default=None)
        if index is None:
            known = list(dict.fromkeys(name for stage in earlier for name in stage.fields))
            raise arguments.unknown("field", field, known, path)
        return Source(index, field, text)
    if stage_name not in names:
        known_names = ", ".join(names) or "no stage before has a name"
        message = f"unknown stage {quoted(stage_name)} at {path}{suggestion(stage_name, names)}; earlier: {known_names}"
        raise OperationError("input", message, path=path)
    stage = earlier[names[stage_name]]
    if field not in stage.fields:
        raise arguments.unknown(f"field of the stage {quoted(stage_name)}", field, stage.fields, path)
    return Source(names[stage_name], field, text)


def _check_input_name(name: str, path: str) -> None:
    try:
        parse_signature({"inputs": [name], "outputs": [f"{name}_"]})
    except OperationError as error:
        raise OperationError("input", f"expected the name of an input at {path}: {error.message}", path=path) from None


def _signature_source(shared: SignatureSpec | None, earlier: Sequence[Stage], path: str) -> SignatureSource:
    """Return the shared signature for one stage: with the outputs of the stage before as additional inputs."""

    def read(reserved: Reserved) -> SignatureSpec:
        if shared is None:
            raise OperationError("signature", f"expected a signature at spec.signature or {path}.signature", path=path)
        for field in (*shared.inputs, *shared.outputs):
            if owner := reserved.owner(field.name, of_input=field in shared.inputs):
                message = f'the field "{field.name}" is reserved by {owner}; rename it'
                raise OperationError("signature", message, path="spec.signature")
        if not earlier:
            return shared
        previous = tuple(
            Field(
                PREVIOUS + field.name, field.type_text, field.annotation, f"what the stage before gave as {field.name}"
            )
            for field in earlier[-1].spec.outputs
        )
        return replace(shared, inputs=shared.inputs + previous)

    return SignatureSource(read)


def _whole_signature(stages: Sequence[Stage], shared: SignatureSpec | None) -> SignatureSpec:
    inputs: dict[str, Field] = {field.name: field for field in shared.inputs} if shared else {}
    outputs: dict[str, Field] = {}
    for number, stage in enumerate(stages, 1):
        sources = dict(stage.sources)
        for field in stage.spec.inputs:
            source = sources.get(field.name)
            if source is not None and source.stage is not None:
                continue
            name = source.name if source else field.name
            is_known = name in inputs or (source is None and _is_given(name, outputs))
            if is_known:
                continue
            if shared is not None:
                given = ", ".join([*inputs, *outputs])
                raise OperationError(
                    "signature",
                    f'stage {number} ({stage.entry.name}) needs "{name}", which neither the inputs nor an '
                    f"earlier stage gives; given: {given}",
                    path=f"spec.modules[{number - 1}].signature",
                )
            inputs[name] = replace(field, name=name)
        outputs.update({field.name: field for field in stage.spec.outputs})
    return SignatureSpec(tuple(inputs.values()), tuple(outputs.values()), shared.instructions if shared else None)


def _is_given(name: str, outputs: Mapping[str, Field]) -> bool:
    return name in outputs or name.removeprefix(PREVIOUS) in outputs


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
