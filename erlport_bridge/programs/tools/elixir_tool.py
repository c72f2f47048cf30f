"""Read the descriptions of Elixir functions as tools, and check the arguments that a model gives to them."""

from __future__ import annotations

import functools
import inspect
import json
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

import dspy
import jsonschema
import pydantic

from erlport_bridge.errors import OperationError, json_fault
from erlport_bridge.limits import NAME_BYTES, SCHEMA_BYTES, SCHEMA_PARTS, size_of
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.text import arguments, beginning, inside
from erlport_bridge.programs.tools.observed_tool import (
    NAME,
    RESERVED_NAMES,
    ArgumentsError,
    ObservedTool,
    check_names,
)
from erlport_bridge.programs.tools.schemas import resolved
from erlport_bridge.term import shown, sorted_keys

_KEYS: Final = frozenset({"name", "description", "parameters", "callback", callbacks.EXPORTED})
# What a caller of ``DSPex.Python`` writes: the function itself in place of its id, and how long it may take.
_OFFERED: Final = (_KEYS - {"callback", callbacks.EXPORTED}) | {"function", "timeout"}
# Types that models sometimes write as strings ("3", "true"), and how such a string is read.
_WRITTEN_AS_TEXT: Final = {
    name: pydantic.TypeAdapter(annotation)
    for name, annotation in (("integer", int), ("number", float), ("boolean", bool))
}
# Deep enough for any result that a model can read, and far from Python's recursion limit.
_MAX_DEPTH: Final = 64
_MAX_REASON_CHARACTERS: Final = 200


@dataclass(frozen=True)
class ElixirTool:
    """The description of an Elixir tool; equal for calls that describe the tool equally.

    Attributes:
        name: The name by which the model calls the tool.
        description: The purpose of the tool, for the model.
        schema: JSON schema of the arguments (an object) as text; equal schemas have equal texts.
        function: The Elixir function.
        parts: The number of parts of the schema.
    """

    name: str
    description: str
    schema: str
    function: ElixirFunction
    parts: int = field(default=1, compare=False)

    def build(self) -> dspy.Tool:
        """Build the DSPy tool, which all calls with an equal description may share."""
        schema = json.loads(self.schema)
        return _FunctionTool(_stand_in(schema), self, schema)


@dataclass(frozen=True)
class LaterTool(ElixirTool):
    """A tool that a stored program names, and that each call brings, or Elixir finds if it is exported."""


def named(item: Mapping[Any, Any], path: str) -> LaterTool:
    """Read the tool of a stored program: its name alone, since each call brings its description and its function.

    An exported function has its text, by which each call asks Elixir for both.

    Raises:
        OperationError: Of kind ``input``, with the path of the name.
    """
    given = arguments.options(item, path)
    arguments.only(given, _KEYS | _OFFERED, "key of a tool", path, offered=_OFFERED)
    exported = None
    if callbacks.EXPORTED in given:
        exported = callbacks.exported_text(given[callbacks.EXPORTED], f"{path}.{callbacks.EXPORTED}")
        given["name"] = exported.rpartition(".")[2]
    name = read_name(given.get("name"), f"{path}.name")
    if name in RESERVED_NAMES:
        raise _wrong(f"{path}.name", "a name that ReAct does not use itself", name)
    return later(name, exported)


def later(name: str, exported: str | None = None) -> LaterTool:
    """Return the tool of a name that each call brings, or of an exported function."""
    function = ElixirFunction(name, f"tool:{exported}" if exported else None)
    return LaterTool(name, "a tool that each call brings", read_schema(None, name)[0], function)


def found(later_tool: LaterTool, description: Mapping[str, Any]) -> ElixirTool:
    """Return the tool of an exported function with what Elixir says about it; errors as :func:`read`."""
    exported = str(later_tool.function.exported).partition(":")[2]
    tool = read({**description, callbacks.EXPORTED: exported}, exported)
    return replace(tool, function=later_tool.function)


def read(item: Mapping[Any, Any], path: str) -> ElixirTool:
    """Read the description of one tool.

    Args:
        item: A map with ``name``, ``description``, ``parameters`` (a JSON schema of an object; without it the tool
            takes no arguments) and ``callback`` (the id by which Elixir finds the function); an exported function also
            has ``elixir``, its text.
        path: The path of the map in the call, for errors.

    Raises:
        OperationError: Of kind ``input``, with the path of the invalid entry, such as ``opts.tools[0].name``.
    """
    given = arguments.options(item, path)
    arguments.only(given, _KEYS, "key of a tool", path, offered=_OFFERED)
    name = read_name(given.get("name"), f"{path}.name")
    if name in RESERVED_NAMES:
        raise _wrong(f"{path}.name", "a name that ReAct does not use itself", name)
    description = arguments.text(given.get("description"), f"{path}.description")
    schema, parts = read_schema(given.get("parameters"), f"{path}.parameters")
    return ElixirTool(name, description, schema, callbacks.read(path, given, "tool"), parts)


def check_parts(tools: Sequence[object], path: str) -> None:
    """Check the number of parts of all schemas of a list of tools, which are built on the event loop.

    Raises:
        OperationError: Of kind ``input``, with the path of the list.
    """
    SCHEMA_PARTS.check(sum(tool.parts for tool in tools if isinstance(tool, ElixirTool)), path)


def read_name(value: object, path: str) -> str:
    """Read the name of a tool.

    Raises:
        OperationError: Of kind ``input``: the name is not 1 to 64 letters, digits and ``_``.
    """
    name = arguments.text(value, path, NAME_BYTES)
    if not NAME.fullmatch(name):
        raise _wrong(path, "letters, digits and _, at most 64, as the name of a tool", name)
    return name


def read_schema(value: object, path: str) -> tuple[str, int]:
    """Read the JSON schema of a tool's arguments; return it as text, and the number of its parts.

    Equal schemas have equal texts.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not a JSON schema of an object, or a ``$ref`` leads to nothing.
    """
    SCHEMA_BYTES.check(size_of(value, SCHEMA_BYTES.most), path)
    schema = arguments.options(value, path)
    schema.setdefault("type", "object")
    schema.setdefault("properties", {})
    schema.setdefault("additionalProperties", False)
    properties = schema["properties"]
    if schema["type"] != "object" or not isinstance(properties, Mapping):
        raise _wrong(path, "a JSON schema of an object with properties", schema)
    for name in properties:
        if not isinstance(name, str):
            raise _wrong(f"{path}.properties", "names of arguments", name)
    schema, parts = resolved(schema, path)
    try:
        # Without the parameter `default`, so that a value that JSON does not have is an error.
        text = json.dumps(schema, allow_nan=False)
        _check_schema(text)
    except jsonschema.SchemaError as error:
        where = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in error.absolute_path)
        raise _wrong(path + where, "a JSON schema", error.instance) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise OperationError("input", f"expected a JSON schema at {path}: {json_fault(error)}", path=path) from None
    for name in schema.get("required", ()):
        if name not in properties:
            raise _wrong(f"{path}.required", "names of properties", name)
    return text, parts


# Checking takes a millisecond for each parameter, and calls bring the same tools again and again.
@functools.lru_cache(maxsize=256)
def _check_schema(text: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def _wrong(path: str, expected: str, value: object) -> OperationError:
    return OperationError("input", f"expected {expected} at {path}, got {shown(value)}", path=path)


def _stand_in(schema: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function with the schema's parameters, which DSPy inspects; the tool calls Elixir instead of it."""

    def called_by_name(**values: Any) -> Any:
        raise TypeError("a function of Elixir is called by its tool")

    required = schema.get("required", ())
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if name in required else None,
        )
        for name in schema["properties"]
        if name.isidentifier() and not keyword.iskeyword(name)
    ]
    # Code in the sandbox may pass positional arguments, so optional parameters come last.
    parameters.sort(key=lambda parameter: parameter.name not in required)
    called_by_name.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called_by_name


class _FunctionTool(ObservedTool):
    """A DSPy tool that calls an Elixir function."""

    _schema: dict[str, Any] = pydantic.PrivateAttr()
    _function: ElixirFunction = pydantic.PrivateAttr()

    def __init__(self, stand_in: Any, tool: ElixirTool, schema: dict[str, Any]) -> None:
        super().__init__(stand_in, name=tool.name, desc=tool.description, args=schema["properties"], arg_types={})
        self._schema = schema
        self._function = tool.function

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        properties: dict[str, Any] = self._schema["properties"]
        takes_others = self._schema["additionalProperties"] is not False
        defaults = {name: schema["default"] for name, schema in properties.items() if _has_default(schema)}
        required = [name for name in self._schema.get("required", ()) if name not in defaults]
        check_names(arguments, known=arguments if takes_others else properties, required=required)
        given = {name: value for name, value in arguments.items() if value is not None or self._takes_nil(name)}
        values = defaults | {name: _read_value(value, properties.get(name)) for name, value in given.items()}
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(self._schema).iter_errors(values))
        if error is None:
            return values
        reason = beginning(error.message, _MAX_REASON_CHARACTERS)
        if not error.absolute_path:
            raise ArgumentsError(f"the arguments are invalid: {reason}")
        name, *inner = error.absolute_path
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)
        raise ArgumentsError(f"argument {name}{where} is invalid: {reason}")

    def _takes_nil(self, name: str) -> bool:
        """Return whether ``nil`` is a value of an argument, rather than a mark that the argument is left out.

        Models write ``null`` for optional arguments, and so does code in the sandbox, where each function has all its
        parameters.
        """
        if name in self._schema.get("required", ()) or name not in self._schema["properties"]:
            return True
        return bool(jsonschema.Draft202012Validator(self._schema["properties"][name]).is_valid(None))

    async def _run(self, values: dict[str, Any]) -> Any:
        return _observable(await self._function.call(values))


def _has_default(schema: object) -> bool:
    return isinstance(schema, dict) and "default" in schema


def _read_value(value: Any, schema: object) -> Any:
    """Read a number or a boolean that a model wrote as a string, as Python tools do; return other values unchanged."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(value, float) and kind == "integer" and value.is_integer():
        # 2.0 is an integer in JSON schema, but not in Elixir.
        return int(value)
    reader = _WRITTEN_AS_TEXT.get(kind) if isinstance(value, str) and isinstance(kind, str) else None
    if reader is None:
        return value
    try:
        return reader.validate_python(value)
    except pydantic.ValidationError:
        return value


def _observable(value: Any, path: str = "", depth: int = 1) -> Any:
    """Return the result of a function as values that a model can read.

    Raises:
        OperationError: Of kind ``tool``: the result holds a pid, a function or the like, or nests too deep.
    """
    where = f" at {path}" if path else ""
    if depth > _MAX_DEPTH:
        raise OperationError("tool", f"the result nests deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | int | float | str | date | datetime | time | Decimal):
        return value
    if type(value) in (list, tuple):
        return [_observable(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, set | range):
        items = sorted_keys(value) if isinstance(value, set) else value
        return [_observable(item, path, depth + 1) for item in items]
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else shown(key): _observable(item, inside(path, key), depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, bytes):
        raise OperationError("tool", f"the result has a binary that is not UTF-8{where}")
    raise OperationError("tool", f"the result has {shown(value)}{where}, which is nothing to read")
