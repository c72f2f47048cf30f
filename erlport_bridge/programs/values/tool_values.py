"""Read values of the type ``dspy.Tool``: tools that the prompt describes to a model, and that the caller runs.

A model calls such a tool by the output ``dspy.ToolCalls``. The caller runs the calls.
"""

from __future__ import annotations

import json
from typing import Any

import dspy
import pydantic

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import tools
from erlport_bridge.programs.text import arguments, neutral, text_of
from erlport_bridge.programs.tools import elixir_tool
from erlport_bridge.programs.values.media import entries, mismatch


def tool(value: object, path: str) -> dspy.Tool:
    """Read a value for ``dspy.Tool``.

    Args:
        value: The name of a registered tool; a map with ``name``, ``description`` and ``parameters`` (a JSON schema of
            an object); or the map of a result, with ``name``, ``desc`` and ``args``.
        path: The path of the value, for errors.

    Raises:
        OperationError: Of kind ``input``: the name is not registered, or the description is invalid.
    """
    if text_of(value):
        try:
            (offered,) = tools.find_tools([text_of(value)], path=path)
        except OperationError as error:
            raise OperationError("input", error.message, path=path) from None
        return offered
    if not isinstance(value, dict):
        raise mismatch("a tool (its name, or a map with name, description and parameters)", value, path)
    given = entries(value, "Tool", ("name", "description", "desc", "parameters", "args"), path)
    name = elixir_tool.read_name(given.get("name"), f"{path}.name")
    description = "description" if "description" in given else "desc"
    if "args" in given:
        parameters, where = {"properties": arguments.options(given["args"], f"{path}.args")}, f"{path}.args"
    else:
        parameters, where = arguments.options(given.get("parameters"), f"{path}.parameters"), f"{path}.parameters"
    schema: dict[str, Any] = json.loads(elixir_tool.read_schema(parameters, where)[0])
    return _DescribedTool(name, neutral(arguments.text(given.get(description), f"{path}.{description}")), schema)


class _DescribedTool(dspy.Tool):  # type: ignore[misc]
    _schema: dict[str, Any] = pydantic.PrivateAttr()

    def __init__(self, name: str, description: str, schema: dict[str, Any]) -> None:
        super().__init__(_run_by_caller, name=name, desc=description, args=schema["properties"], arg_types={})
        self._schema = schema

    def format_as_litellm_function_call(self) -> dict[str, Any]:
        """Return the tool as providers take it, with its own schema: DSPy's requires every argument without default."""
        function = {"name": self.name, "description": self.desc, "parameters": self._schema}
        return {"type": "function", "function": function}


def _run_by_caller(**_arguments: Any) -> Any:
    raise TypeError("a tool that is an input of a call is run by the caller")
