"""Write a program as Python source, for the models that improve its instructions.

DSPy shows such a model the source of the program's class. If the program is data, that class is the bridge's own and
says nothing about the program. The source written here is the class that one would write in DSPy for the same program.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import dspy

from erlport_bridge import dspy_patches
from erlport_bridge.programs.modules import plain_module
from erlport_bridge.programs.pipelines import PREVIOUS, Pipeline, Stage
from erlport_bridge.programs.tools import ElixirTool

_NAMED_IN: Final = "__pydantic_parent_namespace__"
_SHOWN_AS_THEY_ARE: Final = (str, int, float, bool, type(None))


# `inspect.getsource` of a class parses its file, and Python 3.11 cannot parse in two threads at a time: it raises "AST
# constructor recursion depth mismatch".
_parsing: Final = threading.Lock()


class Described:
    """A mixin of a program's class; ``described`` is the program that models are shown."""

    described: Pipeline


def source_of(program: Pipeline) -> str:
    """Return the source of a program; a single module of DSPy or of an application has the source of its own class."""
    own = _own_module(program)
    return written(program) if own is None else _source(type(own))


def written(program: Pipeline) -> str:
    """Return the source of a DSPy class that does what a program does."""
    names = [stage.name or f"step_{number}" for number, stage in enumerate(program.stages, start=1)]
    parts = [f"        self.{name} = {_module(stage)}" for name, stage in zip(names, program.stages, strict=True)]
    inputs: list[str] = []
    given_by: dict[str, str] = {}
    steps = []
    for index, (name, stage) in enumerate(zip(names, program.stages, strict=True)):
        sources = dict(stage.sources)
        arguments = []
        for field in (item.name for item in stage.spec.inputs):
            source = sources.get(field)
            if source is not None and source.stage is not None:
                value = f"{names[source.stage]}.{source.name}"
            elif source is None and field in given_by:
                value = f"{given_by[field]}.{field}"
            elif source is None and index and field.startswith(PREVIOUS):
                value = f"{names[index - 1]}.{field.removeprefix(PREVIOUS)}"
            else:
                value = field if source is None else source.name
                inputs += [value] if value not in inputs else []
            arguments.append(f"{field}={value}")
        steps.append(f"        {name} = self.{name}({', '.join(arguments)})")
        given_by |= dict.fromkeys(stage.fields, name)
    lines = [
        "class Program(dspy.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *parts,
        "",
        f"    def forward(self, {', '.join(inputs)}):",
        *steps,
        f"        return {_prediction(program, names)}",
    ]
    return "\n".join(lines) + "\n"


def _prediction(program: Pipeline, names: list[str]) -> str:
    if program.outputs is None:
        return names[0] if len(names) == 1 else f"dspy.Prediction({', '.join(f'**{name}' for name in names)})"
    given = [
        f"{output}={source.name if source.stage is None else f'{names[source.stage]}.{source.name}'}"
        for output, source in program.outputs
    ]
    return f"dspy.Prediction({', '.join(given)})"


def _module(stage: Stage) -> str:
    if stage.of is not None:
        first = _module(stage.of)
    elif stage.spec.instructions is None:
        first = repr(stage.spec.text)
    else:
        first = f"dspy.Signature({stage.spec.text!r}, {stage.spec.instructions!r})"
    options = [f"{name}={value!r}" for name, value in stage.options if isinstance(value, _SHOWN_AS_THEY_ARE)]
    tools = ", ".join(tool.name if isinstance(tool, ElixirTool) else str(tool) for tool in stage.tools)
    arguments = [first, *([f"tools=[{tools}]"] if tools else []), *options]
    return f"{stage.entry.name}({', '.join(arguments)})"


def _own_module(program: Pipeline) -> dspy.Module | None:
    # A program whose versions vote has no module of its own.
    if len(program.modules) != 1 or program.outputs is not None:
        return None
    module = plain_module(program.modules[0])
    cls = getattr(module, "stands_for", None)
    if cls is not None and isinstance(module, cls):
        # A module of the bridge that derives from DSPy's is shown as DSPy's.
        shown = cls.__new__(cls)
        shown.__dict__.update(module.__dict__)
        return shown
    return None if type(module).__module__.startswith("erlport_bridge.") else module


def _source_of_class(cls: type) -> str:
    return source_of(cls.described) if issubclass(cls, Described) else _source(cls)


def _source_with_parts(source_of_dspy: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a replacement for ``get_dspy_source_code``."""

    def source(program: Any) -> str:
        if isinstance(program, Described):
            own = _own_module(program.described)
            if own is None:
                return written(program.described)
            program = own
        _name_signatures(program)
        with _parsing:
            return source_of_dspy(program)

    return source


def _name_signatures(program: dspy.Module) -> None:
    """Write the name of each signature of a program where DSPy looks for it.

    From Python 3.14 on DSPy keeps pydantic from writing it there, and ``get_dspy_source_code`` fails.
    """
    for _, module in program.named_sub_modules():
        signature = getattr(module, "signature", None)
        if isinstance(signature, type) and _NAMED_IN not in vars(signature):
            setattr(signature, _NAMED_IN, {"signature_name": signature.__name__})


def _source(cls: type) -> str:
    with _parsing:
        return inspect.getsource(cls)


dspy_patches.provide("program_source", _source_with_parts)
dspy_patches.provide("class_source", lambda module: SimpleNamespace(**{**vars(module), "getsource": _source_of_class}))
