"""Bring a stored program what outlives no call: the functions of Elixir that its tools, rewards and embedders are.

A stored program keeps the names of such functions. Each call brings them again: tools by their names, every other
function as the option of its name (``reward``, ``retriever``, ``embedder``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.callbacks import ElixirFunction, Functions
from erlport_bridge.programs.modules import ElixirReward, FunctionOption, RewardOption
from erlport_bridge.programs.options import Option
from erlport_bridge.programs.pipelines.stages import Stage
from erlport_bridge.programs.text import quoted, text_of
from erlport_bridge.programs.tools import ElixirTool, LaterTool, elixir_tool
from erlport_bridge.term import OtpErlangFunction

#: What stands in a spec in place of a function that each call brings.
BY_CALL: Final = "call"

_FUNCTION_KEYS: Final = ("callback", "function")

Tools = Sequence[str | ElixirTool]


@dataclass(frozen=True)
class Needs:
    """What each call of a program must bring.

    Attributes:
        tools: The names of tools.
        functions: The places of functions in the program's spec, each with the option of a call that brings it.
    """

    tools: tuple[str, ...]
    functions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, stages: Iterable[Stage], learned_with: Iterable[str] = ()) -> Needs:
        """Return the needs of stages; ``learned_with`` names tools with which a version was compiled."""
        every = [inner for outer in stages for inner in outer.chain]
        named = [tool.name for stage in every for tool in stage.tools if isinstance(tool, LaterTool)]
        functions = [
            (function.place, name)
            for stage in every
            for name, value in stage.options
            if (function := _function_of(value)) is not None
        ]
        return cls(tuple(dict.fromkeys([*named, *learned_with])), tuple(functions))

    def describe(self) -> dict[str, list[str]]:
        """Return the needs as a term."""
        return {"tools": list(self.tools), "functions": sorted({name for _, name in self.functions})}

    def check(self, tools: Tools, functions: Functions) -> None:
        """Check that a call brings everything, before a model is asked.

        Raises:
            OperationError: Of kind ``input``, with the path of what is missing.
        """
        given = {name_of(tool) for tool in tools}
        missing = [name for name in self.tools if name not in given]
        if missing:
            names = ", ".join(map(quoted, missing))
            message = f"the program needs the tool{'s' if len(missing) > 1 else ''} {names}; give them with each call, "
            raise OperationError("input", f"{message}at opts.tools", path="opts.tools")
        for _, name in self.functions:
            if f"opts.{name}" not in functions and f"opts.{name}.function" not in functions:
                message = f"the program needs a function as its {name}; give it with each call, at opts.{name}"
                raise OperationError("input", message, path=f"opts.{name}")

    def bound(self, functions: Functions) -> Functions:
        """Return the functions of a call, by their places in the call and in the program."""
        if not self.functions:
            return functions
        places = {place: functions[f"opts.{name}"] for place, name in self.functions}
        return {**functions, **places}


def with_tools(stages: tuple[Stage, ...], tools: Tools) -> tuple[Stage, ...]:
    """Return the stages of a program with the tools of a call.

    A tool takes the place of the one that the program names; tools that it does not name go to the first module that
    takes tools and has none of its own.

    Raises:
        OperationError: Of kind ``input``: the program has no place for a tool.
    """
    every = [tool for outer in stages for stage in outer.chain for tool in stage.tools]
    named = {tool.name for tool in every if isinstance(tool, LaterTool)}
    given = {name_of(tool): tool for tool in tools}
    others = tuple(tool for name, tool in given.items() if name not in named)
    placed = False

    def filled(stage: Stage) -> Stage:
        nonlocal placed
        own = tuple(given.get(tool.name, tool) if isinstance(tool, LaterTool) else tool for tool in stage.tools)
        if others and not placed and not own and stage.entry.takes_tools:
            own, placed = others, True
            check_reserved(own, stage)
        return replace(stage, tools=own, of=filled(stage.of) if stage.of else None)

    found = tuple(filled(stage) for stage in stages)
    if others and not placed:
        taken = [name_of(tool) for tool in every]
        message = f"the program has no place for the tool {quoted(name_of(others[0]))} at opts.tools"
        message += f"; it takes {', '.join(taken)}" if taken else "; none of its modules takes tools"
        raise OperationError("input", message, path="opts.tools")
    return found


def with_names(stages: tuple[Stage, ...], names: Iterable[str]) -> tuple[Stage, ...]:
    """Return the stages of a program as they are with tools of these names; errors as :func:`with_tools`."""
    return with_tools(stages, [elixir_tool.later(elixir_tool.read_name(name, "tools")) for name in names])


def check_reserved(given: Tools, stage: Stage) -> None:
    """Refuse tools with the name of one of the module's own.

    Raises:
        OperationError: Of kind ``tool``, with the path.
    """
    for tool in given:
        if name_of(tool) in stage.entry.reserved_tools:
            message = f'the tool "{name_of(tool)}" at opts.tools has the name of one of {stage.entry.name} itself'
            raise OperationError("tool", f"{message}; give it another one", path="opts.tools")


def name_of(tool: str | ElixirTool) -> str:
    """Return the name of a tool."""
    return tool if isinstance(tool, str) else tool.name


def by_call(option: Option, value: object) -> object:
    """Return the value of an option of a stored program, with ``"call"`` in place of a function."""
    if not isinstance(option, RewardOption | FunctionOption):
        return value
    if isinstance(value, OtpErlangFunction) or text_of(value) == BY_CALL:
        return {"callback": BY_CALL}
    if isinstance(value, Mapping):
        given = next((item for key, item in value.items() if key in _FUNCTION_KEYS), None)
        if isinstance(given, OtpErlangFunction) or text_of(given):
            return {**{key: item for key, item in value.items() if key not in _FUNCTION_KEYS}, "callback": BY_CALL}
    return value


def spec_is_map(given: object) -> bool:
    """Return whether a spec is a map or a keyword list, and not only a name."""
    if isinstance(given, str):  # the usual case
        return False
    return isinstance(given, Mapping) or (
        isinstance(given, list) and bool(given) and all(isinstance(item, tuple) for item in given)
    )


def storable(value: Any) -> Any:
    """Return a spec without the functions in it, which end with the call that brings them."""
    if isinstance(value, OtpErlangFunction):
        return BY_CALL
    if isinstance(value, Mapping):
        found = {key: storable(item) for key, item in value.items()}
        for key, item in value.items():
            if key == "tools" and isinstance(item, list):
                found[key] = [_storable_tool(tool) for tool in item]
        return found
    if isinstance(value, tuple) and len(value) == 2:  # of a keyword list
        return value[0], storable(value[1])
    return [storable(item) for item in value] if isinstance(value, list) else value


def _storable_tool(tool: Any) -> Any:
    described = dict(tool) if spec_is_map(tool) else {}
    name = next((item for key, item in described.items() if key == "name"), None)
    return tool if name is None else {"name": name}


def _function_of(value: object) -> ElixirFunction | None:
    function = value.function if isinstance(value, ElixirReward) else value
    return function if isinstance(function, ElixirFunction) else None
