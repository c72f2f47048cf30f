"""The tools that Python offers to ReAct, by name: three of its own, and those that the application registers.

An application registers a tool when its module is imported, and names the tool in a call::

    from erlport_bridge.programs.tools import offer

    @offer
    def stock(article: str) -> int:
        \"\"\"How many pieces of an article are in stock.\"\"\"

A language model writes the arguments and reads the result, so both are treated as foreign text: arguments are checked
against the function's annotations, and an error becomes one short sentence, without a traceback or a path of this host.

``await tool.acall(...)``, which ``ReAct.acall`` does, runs a plain function in a thread with the caller's context, so
that a slow one does not hold up other requests. The sync call of a tool is for threads without an event loop.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, overload

import dspy
import pydantic
from dspy.utils.callback import with_callbacks

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs.arithmetic import Number, evaluate
from erlport_bridge.programs.extraction import nearest_sentences
from erlport_bridge.programs.text import neutral, suggestion
from erlport_bridge.term.inspecting import shown

_Function = TypeVar("_Function", bound=Callable[..., Any])

# ReAct's own tool, which ends the trajectory; it silently replaces one of the same name.
_RESERVED_NAMES: Final = frozenset(("finish",))
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HOST_PATH: Final = re.compile(r"(?:[A-Za-z]:\\|/)[\w.+-]+(?:[/\\][\w.+-]+)+")
_MAX_ERROR_CHARACTERS: Final = 300
_FOUND_SENTENCES: Final = 3


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
    """The offered tools by name. Modules may be imported, and register, in any thread."""

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
    """Offer a function as a tool; also as ``@offer`` and ``@offer(name="…")``.

    Args:
        function: Plain or ``async``. Its docstring tells the language model what it is for, its annotations what the
            arguments must be; an argument without one takes anything.
        name: What calls it; by default the function's own name.

    Returns:
        The function itself.

    Raises:
        OperationError: Of kind ``tool``: the name is taken, reserved or no identifier, or the function's arguments
            cannot be given by name.
    """
    if function is None:
        return lambda decorated: offer(decorated, name=name)
    _registry.add(_tool(function, getattr(function, "__name__", type(function).__name__) if name is None else name))
    return function


def available() -> dict[str, str]:
    """Give the offered tools: name -> the first line of its description."""
    return {name: (tool.desc or "").strip().partition("\n")[0] for name, tool in sorted(_registry.all().items())}


def find_tools(names: object, *, path: str = "tools") -> list[dspy.Tool]:
    """Give the tools of a call.

    Args:
        names: List of names, atoms or strings.
        path: Where the names stand in the call, for errors.

    Raises:
        OperationError: Of kind ``tool``, with the path of the name (``tools[1]``): it is not offered, reserved for
            ReAct, or given twice.
    """
    if not isinstance(names, list | tuple):
        raise OperationError("tool", f"expected a list of names of tools at {path}, got {shown(names)}", path=path)
    offered = _registry.all()
    found: dict[str, dspy.Tool] = {}
    for index, name in enumerate(names):
        where = f"{path}[{index}]"
        if not isinstance(name, str):
            raise OperationError("tool", f"expected the name of a tool at {where}, got {shown(name)}", path=where)
        if name in _RESERVED_NAMES:
            raise OperationError("tool", f'the tool "{name}" at {where} is part of ReAct; leave it out', path=where)
        if name in found:
            raise OperationError("tool", f'the tool "{name}" is given twice, again at {where}', path=where)
        if name not in offered:
            raise OperationError("tool", f"unknown tool {_quoted(name)} at {where}{_remedy(name, offered)}", path=where)
        found[str(name)] = offered[name]
    return list(found.values())


def _quoted(name: str) -> str:
    return f'"{name}"' if len(name) <= 64 else shown(name)


def _remedy(name: str, offered: Iterable[str]) -> str:
    return suggestion(name, offered) or f"; the offered tools are {', '.join(sorted(offered))}"


def _tool(function: Callable[..., Any], name: str) -> _OfferedTool:
    if not _NAME.fullmatch(name):
        raise OperationError("tool", f"expected letters, digits and _ as the name of a tool, got {shown(name)}")
    if name in _RESERVED_NAMES:
        raise OperationError("tool", f'the name "{name}" is reserved for ReAct; offer the tool under another one')
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise OperationError("tool", f'expected only named arguments for the tool "{name}", got "{parameter}"')
    return _OfferedTool(function, name=name, desc=inspect.getdoc(function) or "")


class _OfferedTool(dspy.Tool):  # type: ignore[misc]
    """A tool of which everything that goes wrong is an observation.

    DSPy's own checks and a tool's own exceptions are raised, and ReAct shows the model what is raised with a traceback
    that has this host's paths in it.
    """

    # The positional-only self leaves every name free for an argument.
    async def acall(self, /, **arguments: Any) -> Any:
        return await self._observation(arguments)

    def __call__(self, /, **arguments: Any) -> Any:
        return asyncio.run(self._observation(arguments))

    @with_callbacks  # type: ignore[untyped-decorator]
    async def _observation(self, kwargs: dict[str, Any]) -> Any:
        required = [name for name, schema in self.args.items() if "default" not in schema]
        problem = _argument_problem(kwargs, self.args, required)
        if problem:
            return f"Error in {self.name}: {problem}"
        values: dict[str, Any] = {}
        for name, value in kwargs.items():
            try:
                values[name] = pydantic.TypeAdapter(self.arg_types[name]).validate_python(value)
            except pydantic.ValidationError as error:
                reason = error.errors()[0]["msg"]
                return f"Error in {self.name}: argument {name} is invalid: {reason}, got {shown(value)}"
        try:
            return _neutral_result(await _run(self.func, values))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - what it raises is told to the model
            return f"Error in {self.name}: {_error_text(error)}"


async def _run(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**values)
    result = await asyncio.to_thread(_call, function, values)
    return await result if inspect.isawaitable(result) else result


def _call(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    try:
        return function(**values)
    except StopIteration as error:
        # A future takes no StopIteration: before Python 3.12 the waiting call would never hear of the thread's end.
        raise RuntimeError("the tool raised StopIteration") from error


def _argument_problem(arguments: dict[str, Any], known: Iterable[str], required: list[str]) -> str:
    missing = [f"missing argument {name}" for name in required if name not in arguments]
    unknown = [f"unknown argument {shown(name)}" for name in arguments if name not in known]
    return ", ".join(missing + unknown)


def _neutral_result(result: Any) -> Any:
    # DSPy would turn a marker in a tool's text into a content part of the prompt, such as an image to be fetched.
    return neutral(result) if isinstance(result, str) else result


def _error_text(error: BaseException) -> str:
    text = " ".join(_HOST_PATH.sub("…", message_of(error)).split())[:_MAX_ERROR_CHARACTERS]
    return neutral(text) or type(error).__name__


offer(calculator)
offer(search_text)
offer(today)
