"""Check the inputs and demos of a call, and convert them to DSPy's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution.call_options import MODULE_CALL_OPTIONS
from erlport_bridge.programs.execution.turns import has_history, read_histories
from erlport_bridge.programs.models import GENERATION_SETTINGS
from erlport_bridge.programs.pipelines import Pipeline, Stage
from erlport_bridge.programs.signatures import NO_DEFAULT, SignatureSpec
from erlport_bridge.programs.text import arguments, quoted, text_of
from erlport_bridge.programs.values import convert, input_values


def read_inputs(stages: Sequence[Stage], whole: SignatureSpec, inputs: object) -> dict[str, Any]:
    """Return the checked inputs of a call.

    Text alone becomes the first input of the signature that has no default.

    Raises:
        OperationError: Of kind ``input``, with the path ``inputs.…``.
    """
    given = arguments.options(inputs, "inputs") if inputs and arguments.is_keyword_list(inputs) else inputs
    if isinstance(inputs, str | bytes) or _is_charlist(inputs):
        needed = [item for item in whole.inputs if item.default is NO_DEFAULT]
        given = {(needed or whole.inputs)[0].name: inputs}
    optional = {
        name: annotation
        for stage in stages
        for name, annotation in stage.optional_inputs.items()
        if name not in whole.input_names
    }
    extra = {}
    if optional and isinstance(given, Mapping):
        extra = {
            str(name): value if optional[name] is Any else convert(optional[name], value, f"inputs.{name}")
            for name, value in given.items()
            if name in optional
        }
        given = {name: value for name, value in given.items() if name not in optional}
    _refuse_options(whole, given)
    if has_history(whole) and isinstance(given, Mapping):
        given = read_histories(stages, whole, given)
    return input_values(whole, given) | extra


def _is_charlist(value: object) -> bool:
    """Return whether a list is text; a list such as ``[1, 2]``, which has control characters, is one of numbers."""
    text = text_of(value) if isinstance(value, list) else None
    return text is not None and all(one.isprintable() or one in "\t\n\r" for one in text)


def _refuse_options(whole: SignatureSpec, given: object) -> None:
    """Raise an error for options among the inputs, where Elixir puts them if the inputs are written without braces."""
    if not isinstance(given, arguments.MAPPINGS):
        return
    for name in given:
        if name not in whole.input_names and (name in MODULE_CALL_OPTIONS or name in GENERATION_SETTINGS):
            message = f"unknown input {quoted(str(name))} at inputs; options are the argument after the inputs: write "
            message += f"the inputs as a map, and then {name}: …"
            raise OperationError("input", message, path=f"inputs.{name}")


def with_demos(module: Pipeline, stage: Stage, demos: Sequence[Mapping[str, Any]]) -> Pipeline:
    """Return a copy of a module whose prompts contain ``demos``; the module itself is shared between calls.

    Raises:
        OperationError: Of kind ``input``: a field of a demo is unknown to the signature, or has the wrong type.
    """
    fields = {item.name: item for item in (*stage.spec.inputs, *stage.spec.outputs)}
    checked = []
    for index, demo in enumerate(demos):
        where = f"opts.demos[{index}]"
        arguments.only(demo, [*fields, *stage.adds], "field", where)
        known = tuple(fields[name] for name in demo if name in fields)
        added = {name: convert(Any, demo[name], f"{where}.{name}") for name in demo if name in stage.adds}
        given = {name: value for name, value in demo.items() if name not in added}
        spec = SignatureSpec(known, (), None)
        checked.append(dspy.Example(**input_values(spec, given, path=where), **added))
    copy: Pipeline = module.deepcopy()
    for predictor in copy.predictors():
        if all(item.name in predictor.signature.output_fields for item in stage.spec.outputs):
            predictor.demos = checked
    return copy
