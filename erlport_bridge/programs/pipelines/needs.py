"""Bring a stored program what outlives no call: the functions of Elixir that its tools, rewards and embedders are.

A stored program keeps the names of such functions. Each call brings them again: tools by their names, every other
function as the option of its name (``reward``, ``retriever``, ``embedder``). Functions that a module exports are kept
by their texts instead, and Elixir finds them for each call that does not bring others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.callbacks import ElixirFunction, Functions
from erlport_bridge.programs.modules import ElixirReward, FunctionOption, RewardOption
from erlport_bridge.programs.options import Option
from erlport_bridge.programs.pipelines.stages import Stage
from erlport_bridge.programs.text import quoted, text_of
from erlport_bridge.programs.tools import ElixirTool, LaterTool, elixir_tool
from erlport_bridge.term import Atom, OrderedMap, OtpErlangFunction, shown, sorted_items

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
        exported_tools: The tools that Elixir finds, without a call that brings them.
        exported: Such functions in the program's spec, as ``functions``.
    """

    tools: tuple[str, ...]
    functions: tuple[tuple[str, str], ...]
    exported_tools: tuple[LaterTool, ...]
    exported: tuple[tuple[ElixirFunction, str], ...]

    @classmethod
    def of(cls, stages: Iterable[Stage], learned_with: Iterable[LaterTool] = ()) -> Needs:
        """Return the needs of stages; ``learned_with`` are tools with which a version was compiled."""
        every = [inner for outer in stages for inner in outer.chain]
        named = [tool for stage in every for tool in stage.tools if isinstance(tool, LaterTool)]
        # A call of the compilation may have brought another tool in place of an exported one.
        exported = {tool.name for tool in named if tool.function.exported is not None}
        tools = list(dict.fromkeys([*named, *(tool for tool in learned_with if tool.name not in exported)]))
        functions = [
            (function, name)
            for stage in every
            for name, value in stage.options
            if (function := _function_of(value)) is not None
        ]
        return cls(
            tuple(tool.name for tool in tools if tool.function.exported is None),
            tuple((function.place, name) for function, name in functions if function.exported is None),
            tuple(tool for tool in tools if tool.function.exported is not None),
            tuple((function, name) for function, name in functions if function.exported is not None),
        )

    @property
    def taken(self) -> set[str]:
        """The options by which a call may bring functions."""
        return {name for _, name in (*self.functions, *self.exported)}

    def describe(self) -> dict[str, list[str]]:
        """Return the needs as a term."""
        exported = [*(tool.function for tool in self.exported_tools), *(function for function, _ in self.exported)]
        return {
            "tools": list(self.tools),
            "functions": sorted({name for _, name in self.functions}),
            "exported": sorted({str(function.exported).partition(":")[2] for function in exported}),
        }

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
            if _brought(name, functions) is None:
                message = f"the program needs a function as its {name}; give it with each call, at opts.{name}"
                raise OperationError("input", message, path=f"opts.{name}")

    async def find(self, tools: Tools, functions: Functions) -> dict[LaterTool, ElixirTool]:
        """Ask Elixir for the exported functions that a call does not bring; return the tools among them.

        Raises:
            OperationError: Of kind ``input``: Elixir has no such function, or it describes no tool.
        """
        given = {name_of(tool) for tool in tools}
        asked = [tool for tool in self.exported_tools if tool.name not in given]
        others = [function for function, name in self.exported if _brought(name, functions) is None]
        names = [str(function.exported) for function in (*(tool.function for tool in asked), *others)]
        if not names:
            return {}
        descriptions = await callbacks.described(list(dict.fromkeys(names)))
        by_name = dict(zip(dict.fromkeys(names), descriptions, strict=True))
        found = {tool: elixir_tool.found(tool, by_name[str(tool.function.exported)]) for tool in asked}
        elixir_tool.check_parts(list(found.values()), "spec.tools")
        return found

    def bound(self, functions: Functions) -> Functions:
        """Return the functions of a call, by their places in the call and in the program."""
        places = [*self.functions, *((function.place, name) for function, name in self.exported)]
        brought = {place: _brought(name, functions) for place, name in places}
        return {**functions, **{place: given for place, given in brought.items() if given is not None}}


def _brought(name: str, functions: Functions) -> str | None:
    return functions.get(f"opts.{name}", functions.get(f"opts.{name}.function"))


def with_tools(
    stages: tuple[Stage, ...], tools: Tools, found: Mapping[LaterTool, ElixirTool] | None = None
) -> tuple[Stage, ...]:
    """Return the stages of a program with the tools of a call.

    A tool takes the place of the one that the program names; tools that it does not name go to the first module that
    takes tools and has none of its own.

    Args:
        stages: The stages.
        tools: The tools that the call brings.
        found: The exported tools, as :meth:`Needs.find` returns them.

    Raises:
        OperationError: Of kind ``input``: the program has no place for a tool.
    """
    found = found or {}
    every = [tool for outer in stages for stage in outer.chain for tool in stage.tools]
    named = {tool.name for tool in every if isinstance(tool, LaterTool)}
    given = {tool.name: tool for tool in found.values() if tool.name not in named} | {name_of(t): t for t in tools}
    others = tuple(tool for name, tool in given.items() if name not in named)
    placed = False

    def own_of(tool: str | ElixirTool) -> str | ElixirTool:
        return given.get(tool.name, found.get(tool, tool)) if isinstance(tool, LaterTool) else tool

    def filled(stage: Stage) -> Stage:
        nonlocal placed
        own = tuple(map(own_of, stage.tools))
        if others and not placed and not own and stage.entry.takes_tools:
            own, placed = others, True
            check_reserved(own, stage)
        return replace(stage, tools=own, of=filled(stage.of) if stage.of else None)

    filled_stages = tuple(filled(stage) for stage in stages)
    if others and not placed:
        taken = [name_of(tool) for tool in every]
        name = name_of(others[0])
        if name in taken:
            message = f"the program has the tool {quoted(name)} already, so that no call brings it: leave it out of"
            raise OperationError("input", f"{message} opts.tools", path="opts.tools")
        message = f"the program has no place for the tool {quoted(name)} at opts.tools"
        message += f"; it takes {', '.join(taken)}" if taken else "; none of its modules takes tools"
        raise OperationError("input", message, path="opts.tools")
    return filled_stages


def learned_tools(compiled: Mapping[str, Any] | None) -> tuple[LaterTool, ...]:
    """Return the tools with which a version has learned, as :func:`named_tools` wrote them.

    Raises:
        OperationError: Of kind ``input``, with the path of what names no tool.
    """
    names, path = (compiled or {}).get("tools", []), "compiled.tools"
    if not isinstance(names, list):
        raise OperationError("input", f"expected a list of names at {path}, got {shown(names)}", path=path)
    items = [item if isinstance(item, Mapping) else {"name": item} for item in names]
    return tuple(elixir_tool.named(item, f"{path}[{index}]") for index, item in enumerate(items))


def named_tools(tools: Tools) -> list[Any]:
    """Return tools as a stored program names them: an exported function by its text."""

    def named(tool: str | ElixirTool) -> Any:
        exported = None if isinstance(tool, str) else tool.function.exported
        return {callbacks.EXPORTED: exported.partition(":")[2]} if exported else name_of(tool)

    return [named(tool) for tool in tools]


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
        if callbacks.EXPORTED in value:
            return {key: item for key, item in value.items() if key not in _FUNCTION_KEYS}
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


_AS_THEY_ARE: Final = frozenset({"signature", "trainset"})


def storable(value: Any) -> Any:
    """Return a spec without the functions in it, which end with the call that brings them."""
    if isinstance(value, OtpErlangFunction):
        return BY_CALL
    if isinstance(value, list) and spec_is_map(value) and all(isinstance(key, Atom) for key, *_ in value):
        value = OrderedMap(value)
    if isinstance(value, Mapping):
        # Not within data, nor within a signature, where `[{:list, :string}, {:map, :integer}]` is a list of types.
        found = OrderedMap((key, item if key in _AS_THEY_ARE else storable(item)) for key, item in sorted_items(value))
        for key, item in value.items():
            if key == "tools" and isinstance(item, list):
                found[key] = [_storable_tool(tool) for tool in item]
        return found
    if isinstance(value, tuple) and len(value) == 2:  # of a keyword list
        return value[0], storable(value[1])
    return [storable(item) for item in value] if isinstance(value, list) else value


def _storable_tool(tool: Any) -> Any:
    described = dict(tool) if spec_is_map(tool) else {}
    if callbacks.EXPORTED in described:
        return {callbacks.EXPORTED: described[callbacks.EXPORTED]}
    name = next((item for key, item in described.items() if key == "name"), None)
    return tool if name is None else {"name": name}


def _function_of(value: object) -> ElixirFunction | None:
    function = value.function if isinstance(value, ElixirReward) else value
    return function if isinstance(function, ElixirFunction) else None
