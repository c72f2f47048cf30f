"""Callbacks: Elixir functions that a call passes to Python, callable while that call runs.

On the wire a function is an id by which Elixir finds it. The place of the function in the call, such as
``spec.reward``, is the same for every call, so the built module, which calls share, holds the place. The id differs
from call to call, so the context of the call holds it.

A function that a module of the application exports needs no id: it is known by a text (``MyApp.Tools.lookup``), which a
stored program keeps. Elixir finds the function by that text, for calls that bring the id of a resolver.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES, NAME_BYTES
from erlport_bridge.port import elixir
from erlport_bridge.programs.text import arguments, quoted
from erlport_bridge.request import caller_context, request_id

#: The module of Elixir that calls registered functions.
CALLBACKS_MODULE: Final = "Elixir.DSPex.Python.Callbacks"

#: The place of the resolver among the functions of a call.
RESOLVER: Final = "opts.resolver"
#: The key of an exported function in a spec.
EXPORTED: Final = "elixir"

_EXPORTED_TEXT: Final = re.compile(r":?[A-Za-z_][\w.@]*\.[a-z_]\w*[?!]?")

#: The ids of a call's functions, by place.
Functions: TypeAlias = Mapping[str, str]

# The functions of the call that runs in this context.
_ids: ContextVar[Functions] = ContextVar("elixir_functions")
# The functions found so far in the call that is being read in this context.
_collected: ContextVar[dict[str, str]] = ContextVar("collected_functions")


@dataclass(frozen=True)
class ElixirFunction:
    """An Elixir function, named by its place in a call (``spec.reward``); functions of one place are equal.

    Attributes:
        place: The place.
        exported: The role and the text of an exported function, ``"reward:MyApp.Rewards.short"``; ``None``: the call
            that calls it must bring it.
    """

    place: str
    exported: str | None = None

    async def call(self, given: Mapping[str, Any]) -> Any:
        """Call the function with one map and return its result; holds no thread, and ends at once on cancellation.

        Raises:
            OperationError: Of kind ``tool``: the function failed; the message is one sentence.
            EncodeError: ``given`` cannot be encoded.
        """
        return await elixir.call(*invocation(self._callback_id(), dict(given)))

    def call_in_thread(self, given: Mapping[str, Any]) -> Any:
        """Call the function from a thread without an event loop; see :meth:`call`."""
        return asyncio.run(self.call(given))

    def _callback_id(self) -> str:
        functions = _ids.get()
        if self.exported is None or self.place in functions:
            return functions[self.place]
        return f"{_resolver([self.exported])}/{self.exported}"


async def described(exported: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return what Elixir says about exported functions: the description of a tool, or an empty map.

    Raises:
        OperationError: Of kind ``input``: the call has no resolver, or there is no such function any more.
    """
    found: Any = await elixir.call(*invocation(_resolver(exported), {"functions": list(exported)}))
    for function, description in zip(exported, found, strict=True):
        if "error" in description:
            text = function.partition(":")[2]
            message = f"the program names the function {text} of Elixir, and {description['error']}"
            raise OperationError("input", message, path=text)
    return [dict(description) for description in found]


def _resolver(exported: Sequence[str]) -> str:
    resolver = _ids.get().get(RESOLVER)
    if resolver is None:
        names = ", ".join(function.partition(":")[2] for function in exported)
        message = f"the program names functions of Elixir ({names}), and the call has no resolver at {RESOLVER}"
        raise OperationError("input", f"{message}; see DSPex.Python.Callbacks.resolver/0", path=RESOLVER)
    return resolver


def invocation(callback_id: str, given: dict[str, Any]) -> tuple[str, str, list[Any]]:
    """Return the call by which Elixir calls the function with this id: module, function, arguments.

    The id of the running request and the context of its caller, if it has any, are further arguments: for Elixir's log
    entries about the function, and for the process that runs it.
    """
    about = [request_id.get(), caller_context.get()]
    while about and about[-1] is None:
        about.pop()
    return CALLBACKS_MODULE, "call", [callback_id, given, *about]


def bind(functions: Functions) -> None:
    """Set the ids by which code in this context calls the functions of its call."""
    _ids.set(functions)


class Collecting:
    """Collects the functions that :func:`read` finds within its ``with`` block, and changes nothing else.

    A class, not a generator: every call enters one, and a generator takes twice as long.

    Attributes:
        functions: The functions found.
    """

    __slots__ = ("_token", "functions")

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}

    def __enter__(self) -> None:
        self._token = _collected.set(self.functions)

    def __exit__(self, *_error: object) -> None:
        _collected.reset(self._token)


def read(place: str, given: Mapping[str, Any], role: str) -> ElixirFunction:
    """Read the function at ``place`` and return it; use within :class:`Collecting`.

    Args:
        place: The place of the function.
        given: A map with the id of the function, ``callback``, or the text of an exported one, ``elixir``, or both.
        role: What the function is for.

    Raises:
        OperationError: Of kind ``input``: the id is not text, or the text no name of a function.
    """
    exported = None
    if EXPORTED in given:
        exported = f"{role}:{exported_text(given[EXPORTED], f'{place}.{EXPORTED}')}"
    if exported is None or "callback" in given:
        collect(place, arguments.text(given.get("callback"), f"{place}.callback", ID_BYTES))
    return ElixirFunction(place, exported)


def collect(place: str, callback_id: str) -> None:
    """Add the id of the function at ``place`` to those of the call that is being read."""
    functions = _collected.get(None)
    if functions is not None:
        functions[place] = callback_id


def exported_text(value: object, path: str) -> str:
    """Read the text that names an exported function.

    Raises:
        OperationError: Of kind ``input``, with the path.
    """
    text = arguments.text(value, path, NAME_BYTES)
    if not _EXPORTED_TEXT.fullmatch(text):
        message = f"expected the name of an exported function, such as MyApp.Tools.lookup, at {path}"
        raise OperationError("input", f"{message}, got {quoted(text)}", path=path)
    return text


def refuse(place: str) -> OperationError:
    """Return the error about a function at a place where it would have to outlive its call."""
    return OperationError(
        "input",
        f"expected no function of Elixir at {place}: it can be called only while the call lasts that brings it; "
        "give it to execute_module",
        path=place,
    )
