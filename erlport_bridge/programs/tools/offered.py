"""The registry of Python tools, and the reading of a call's tools: names in the registry, and Elixir functions.

The registry has three built-in tools, and the tools that the application registers. An application registers a tool
when its module is imported, and names the tool in a call::

    from erlport_bridge.programs.tools import offer

    @offer
    def stock(article: str) -> int:
        \"\"\"How many pieces of an article are in stock.\"\"\"

Arguments are checked against the function's annotations. Errors become observations (:mod:`.observed_tool`).
``await tool.acall(...)``, which ``ReAct.acall`` uses, runs a plain function in a thread with the caller's context, so a
slow function does not hold up other requests. The function is interrupted when its call ends. The sync call of a tool
is for threads without an event loop.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

import dspy
import pydantic

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES, TOOLS
from erlport_bridge.programs.text import Number, arguments, evaluate, nearest_sentences, suggestion, text_of
from erlport_bridge.programs.tools import elixir_tool
from erlport_bridge.programs.tools.elixir_tool import ElixirTool
from erlport_bridge.programs.tools.observed_tool import (
    NAME,
    RESERVED_NAMES,
    ArgumentsError,
    ObservedTool,
    check_names,
)
from erlport_bridge.term import shown

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FOUND_SENTENCES: Final = 3
# What a stored program may name as a tool: functions outlive no call.
_STORED: Final = (
    "the name of a tool of Python, {module, function} of exports/0, or "
    '%{name: "…"} of a function that each call brings,'
)


def calculator(expression: str) -> Number:
    """Compute an arithmetic expression: + - * / // % **, parentheses, sqrt, abs, min, max, round, floor, ceil."""
    return evaluate(expression)


def search_text(text: str, query: str) -> str:
    """Search a text for the sentences nearest to a query."""
    return "\n".join(nearest_sentences(text, query, _FOUND_SENTENCES)) or "No sentence shares a word with the query."


def today() -> str:
    """Give the current date in UTC as YYYY-MM-DD."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


class _Registry:
    """The registered tools by name. Thread-safe, since a module may be imported, and register tools, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tools: dict[str, dspy.Tool] = {}

    def add(self, tool: dspy.Tool) -> None:
        with self._lock:
            if tool.name in self._tools:
                raise OperationError("tool", f'expected a new name for a tool, got "{tool.name}", which is taken')
            self._tools[tool.name] = tool

    def all(self) -> dict[str, dspy.Tool]:
        with self._lock:
            return dict(self._tools)


_registry: Final = _Registry()


@overload
def offer(function: _Function, *, name: str | None = None) -> _Function: ...
@overload
def offer(function: None = None, *, name: str | None = None) -> Callable[[_Function], _Function]: ...
def offer(function: Callable[..., Any] | None = None, *, name: str | None = None) -> Any:
    """Register a function as a tool; also as ``@offer`` and ``@offer(name="…")``.

    Args:
        function: A plain or ``async`` function. The language model reads the docstring as the tool's description.
            Arguments are checked against the annotations; an argument without annotation takes any value.
        name: The tool's name; by default the function's name.

    Returns:
        The function itself.

    Raises:
        OperationError: Of kind ``tool``: the name is taken, reserved or not an identifier, or the function has
            arguments that cannot be given by name.
    """
    if function is None:
        return lambda decorated: offer(decorated, name=name)
    _registry.add(_tool(function, getattr(function, "__name__", type(function).__name__) if name is None else name))
    return function


def available() -> dict[str, str]:
    """Return the registered tools: name -> first line of the description."""
    return {name: (tool.desc or "").strip().partition("\n")[0] for name, tool in sorted(_registry.all().items())}


def read_tools(value: Sequence[object], path: str, *, stored: bool = False) -> tuple[str | ElixirTool, ...]:
    """Read the tools of a call: names, and maps that describe Elixir functions.

    Args:
        value: A list of names (atoms or strings) and maps, see :func:`.elixir_tool.read`.
        path: The path of the list in the call, for errors.
        stored: The tools are those of a stored program, which keeps the names of Elixir functions alone.

    Raises:
        OperationError: Of kind ``input``: an item is neither a name nor a map, or a description is invalid. Of kind
            ``tool``: see :func:`find_tools`.
    """
    TOOLS.check(len(value), path)
    tools: list[str | ElixirTool] = []
    for index, item in enumerate(value):
        where = f"{path}[{index}]"
        if isinstance(item, Mapping):
            tools.append(elixir_tool.named(item, where) if stored else elixir_tool.read(item, where))
        elif text_of(item) is None and stored:
            raise OperationError("input", f"expected {_STORED} at {where}, got {shown(item)}", path=where)
        else:
            tools.append(arguments.text(item, where, NAME_BYTES))
    # Checked here, where the path in the call is known; the module that is built with the tools does not know it.
    _check_tools(tools, path, _registry.all())
    elixir_tool.check_parts(tools, path)
    return tuple(tools)


def find_tools(wanted: object, *, path: str = "tools") -> list[dspy.Tool]:
    """Return the DSPy tools for the tools of a call.

    Args:
        wanted: A list of names and of Elixir functions, as :func:`read_tools` returns them.
        path: The path of the list in the call, for errors.

    Raises:
        OperationError: Of kind ``tool``, with the path of the name (``tools[1]``): the name is not registered, is
            reserved for ReAct, or occurs twice.
    """
    if not isinstance(wanted, list | tuple):
        raise OperationError("tool", f"expected a list of names of tools at {path}, got {shown(wanted)}", path=path)
    offered = _registry.all()
    _check_tools(wanted, path, offered)
    return [item.build() if isinstance(item, ElixirTool) else offered[item] for item in wanted]


def _check_tools(wanted: Sequence[object], path: str, offered: Mapping[str, dspy.Tool]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(wanted):
        where = f"{path}[{index}]"
        name = item.name if isinstance(item, ElixirTool) else item
        if not isinstance(name, str):
            raise OperationError("tool", f"expected the name of a tool at {where}, got {shown(name)}", path=where)
        if name in RESERVED_NAMES:
            raise OperationError("tool", f'the tool "{name}" at {where} is part of ReAct; leave it out', path=where)
        if name in seen:
            raise OperationError("tool", f'the tool "{name}" is given twice, again at {where}', path=where)
        if not isinstance(item, ElixirTool) and name not in offered:
            raise OperationError("tool", f"unknown tool {_quoted(name)} at {where}{_remedy(name, offered)}", path=where)
        seen.add(name)


def _quoted(name: str) -> str:
    return f'"{name}"' if len(name) <= 64 else shown(name)


def _remedy(name: str, offered: Iterable[str]) -> str:
    return suggestion(name, offered) or f"; the offered tools are {', '.join(sorted(offered))}"


def _tool(function: Callable[..., Any], name: str) -> _OfferedTool:
    if not NAME.fullmatch(name):
        raise OperationError("tool", f"expected letters, digits and _ as the name of a tool, got {shown(name)}")
    if name in RESERVED_NAMES:
        raise OperationError("tool", f'the name "{name}" is reserved for ReAct; offer the tool under another one')
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise OperationError("tool", f'expected only named arguments for the tool "{name}", got "{parameter}"')
    return _OfferedTool(function, name=name, desc=inspect.getdoc(function) or "")


class _OfferedTool(ObservedTool):
    """A DSPy tool that runs a Python function."""

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        required = [name for name, schema in self.args.items() if "default" not in schema]
        check_names(arguments, known=self.args, required=required)
        values: dict[str, Any] = {}
        for name, value in arguments.items():
            try:
                values[name] = pydantic.TypeAdapter(self.arg_types[name]).validate_python(value)
            except pydantic.ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ArgumentsError(f"argument {name} is invalid: {reason}, got {shown(value)}") from None
        return values

    async def _run(self, values: dict[str, Any]) -> Any:
        return await _awaited(self.func, values)


async def _awaited(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**values)
    result = await asyncio.to_thread(_without_stop_iteration(function), **values)
    return await result if inspect.isawaitable(result) else result


def _without_stop_iteration(function: Callable[..., Any]) -> Callable[..., Any]:
    # `wraps` keeps the function's name, by which reports name a stuck thread.
    @functools.wraps(function)
    def call(**values: Any) -> Any:
        try:
            return function(**values)
        except StopIteration as error:
            # A future cannot hold StopIteration: before Python 3.12 the waiting call would hang after the thread's end.
            raise RuntimeError("the tool raised StopIteration") from error

    return call


offer(calculator)
offer(search_text)
offer(today)
