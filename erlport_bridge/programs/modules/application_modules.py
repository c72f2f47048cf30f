"""Offer an application's own subclasses of ``dspy.Module`` next to DSPy's modules.

The environment variable ``DSPEX_PROGRAM_MODULES`` lists their names (``my_app.programs.Support``), separated by commas;
the flag ``--program-modules`` sets it. The classes are imported once, when the port starts. A name that comes with a
call is only looked up among them; it is never imported.

The inputs of such a module are those of its signature, if the class has an attribute ``signature``; otherwise they are
the parameters of its ``forward`` or ``aforward``. Its options are the parameters of its constructor, as far as they are
numbers, booleans or text.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import dspy
from dspy.predict.flex.ctx import render_annotation

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.modules.module_entry import ModuleEntry, Parts
from erlport_bridge.programs.options import (
    BooleanOption,
    IntegerOption,
    NumberOption,
    Option,
    TextOption,
)
from erlport_bridge.programs.signatures import KNOWN_TYPES, Field, SignatureSpec, parse_signature
from erlport_bridge.programs.text import quoted
from erlport_bridge.term import shown

VARIABLE: Final = "DSPEX_PROGRAM_MODULES"

_MAX_INTEGER: Final = 2**63 - 1
_NAMED_TYPES: Final = {kind.__name__: kind for kind in KNOWN_TYPES.values() if isinstance(kind, type)}
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Application(dspy.Module):  # type: ignore[misc]
    """A module of the application: awaited if it has ``aforward``, else run in a thread; returns a prediction."""

    wraps = True

    def __init__(self, name: str, module: dspy.Module) -> None:
        super().__init__()
        self.module = module
        self._name = name
        self._is_awaited = _is_awaited(type(module))

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module.

        Raises:
            OperationError: Of kind ``internal``: the module returned neither a prediction nor a mapping.
        """
        called = self.module.acall(**inputs) if self._is_awaited else asyncio.to_thread(self.module, **inputs)
        prediction = await called
        if isinstance(prediction, dspy.Prediction):
            return prediction
        if isinstance(prediction, Mapping):
            return dspy.Prediction(**prediction)
        raise OperationError("internal", f"expected a dspy.Prediction from {self._name}, got {shown(prediction)}")


def from_environment() -> dict[str, ModuleEntry]:
    """Return the modules that :data:`VARIABLE` lists, by name; an empty dict if it is not set.

    Raises:
        OperationError: Of kind ``missing_dependency``: one of the modules cannot be imported, is not a subclass of
            ``dspy.Module``, or cannot be built.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return {name: _entry(name) for name in names if name}


def _entry(name: str) -> ModuleEntry:
    cls = _class(name)
    options = tuple(_options(name, cls))
    signature, optional = _inputs(name, cls)
    entry = ModuleEntry(
        name,
        (inspect.getdoc(cls) or "a module of the application").partition("\n")[0],
        _builder(name, cls),
        options=options,
        runs_in_thread=not _is_awaited(cls),
        asks_besides=True,
        is_streamed=False,
        optional_inputs=optional,
        signature=signature,
    )
    try:
        entry.build(None, {})
    except Exception as error:  # the application's constructor may raise anything
        raise _wrong(name, f"it cannot be built: {type(error).__name__}: {error}") from error
    return entry


def _class(name: str) -> type[dspy.Module]:
    module_name, _, class_name = name.rpartition(".")
    if not module_name or module_name == "dspy":
        raise _wrong(name, "expected the name of a class with its module, such as my_app.programs.Support")
    try:
        cls = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # the import may raise anything; the error must name the module
        raise _wrong(name, f"its module cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(cls, type) or not issubclass(cls, dspy.Module):
        raise _wrong(name, f"{module_name} has no subclass of dspy.Module of that name")
    return cls


def _builder(name: str, cls: type[dspy.Module]) -> Callable[[Parts], dspy.Module]:
    return lambda parts: Application(name, cls(**parts.options))


def _is_awaited(cls: type[dspy.Module]) -> bool:
    return callable(getattr(cls, "aforward", None))


def _options(name: str, cls: type[dspy.Module]) -> Iterable[Option]:
    """Yield an option for each constructor parameter of a plain type; other parameters keep their defaults."""
    hints = _hints(cls.__init__)
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if parameter.kind not in _NAMED:
            continue
        required = parameter.default is parameter.empty
        kind = hints.get(parameter.name, str if required else type(parameter.default))
        common: dict[str, Any] = {
            "name": parameter.name,
            "description": "a parameter of the module's constructor",
            "default": None if required else parameter.default,
            "required": required,
        }
        if required:
            raise _wrong(name, f'the parameter "{parameter.name}" of its constructor needs a default')
        if kind is bool:
            yield BooleanOption(**common)
        elif kind is int:
            yield IntegerOption(**common, minimum=-_MAX_INTEGER, maximum=_MAX_INTEGER)
        elif kind is float:
            yield NumberOption(**common)
        elif kind is str:
            yield TextOption(**common)


def _inputs(name: str, cls: type[dspy.Module]) -> tuple[SignatureSpec | None, dict[str, Any]]:
    """Return the required inputs as a signature, and the types of the optional inputs by name.

    The signature is ``None`` if ``forward`` takes ``**kwargs``: each call then has a signature that names its inputs.
    """
    declared = getattr(cls, "signature", None)
    if inspect.isclass(declared) and issubclass(declared, dspy.Signature):
        of_dspy: Any = declared
        inputs, outputs = map(_declared_fields, (of_dspy.input_fields, of_dspy.output_fields))
        return SignatureSpec(inputs, outputs, of_dspy.instructions), {}
    forward = cls.aforward if _is_awaited(cls) else getattr(cls, "forward", None)
    if forward is None:
        raise _wrong(name, "it has neither forward nor aforward")
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None, {}
    hints = _hints(forward)
    fields = {item.name: _field(item.name, hints.get(item.name, Any)) for item in parameters if item.kind in _NAMED}
    needed = tuple(fields[item.name] for item in parameters if item.default is item.empty and item.name in fields)
    optional = {key: field.annotation for key, field in fields.items() if field not in needed}
    return SignatureSpec(needed, (), None), optional


def _declared_fields(fields: Mapping[str, Any]) -> tuple[Field, ...]:
    return tuple(
        _field(name, field.annotation, (field.json_schema_extra or {}).get("desc")) for name, field in fields.items()
    )


def _field(name: str, annotation: Any, description: str | None = None) -> Field:
    """Return a field whose inputs are checked against its type; the type is ``Any`` if :data:`KNOWN_TYPES` lacks it."""
    try:
        text = render_annotation(annotation, _NAMED_TYPES)
        read = parse_signature({"inputs": [{"name": "field", "type": text}], "outputs": "other"}).inputs[0]
    except (ValueError, OperationError):
        return Field(name, "Any", Any, description)
    return Field(name, read.type_text, read.annotation, description)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # the annotation uses names imported for type checkers only
        return {}


def _wrong(name: str, problem: str) -> OperationError:
    return OperationError("missing_dependency", f"cannot offer the module {quoted(name)} of {VARIABLE}: {problem}")
