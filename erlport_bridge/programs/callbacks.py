"""Functions of Elixir that a call brings along; they can be called as long as it lasts.

On the wire a function is an id under which Elixir calls it. What is the same from call to call, where the function
stands in it, belongs to the module that is built and shared; the id belongs to the call, and is found in its context.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from erlport_bridge.errors import OperationError
from erlport_bridge.port import elixir
from erlport_bridge.programs.text import arguments

_CALLBACKS_MODULE: Final = "Elixir.DSPex.Python.Callbacks"
_CALLBACKS_FUNCTION: Final = "call"

#: The ids of the functions that a call brings, by their places.
Functions: TypeAlias = Mapping[str, str]

# Of the call that runs here.
_ids: ContextVar[Functions] = ContextVar("elixir_functions")
# Of the call that is being read here.
_collected: ContextVar[dict[str, str]] = ContextVar("collected_functions")


@dataclass(frozen=True)
class ElixirFunction:
    """A function by where it stands in a call, such as ``spec.reward``; equal for all calls that have one there."""

    place: str

    async def call(self, given: Mapping[str, Any]) -> Any:
        """Call it with one map, from a task; holds no thread, and ends at once when it is cancelled.

        Raises:
            OperationError: Of kind ``tool``: it failed, in one sentence.
            EncodeError: ``given`` is no term.
        """
        return await elixir.call(_CALLBACKS_MODULE, _CALLBACKS_FUNCTION, [_ids.get()[self.place], dict(given)])

    def call_in_thread(self, given: Mapping[str, Any]) -> Any:
        """Call it from a thread without an event loop; see :meth:`call`."""
        return asyncio.run(self.call(given))


def bind(functions: Functions) -> None:
    """Have what runs from here on call the functions of its call by these ids."""
    _ids.set(functions)


@contextlib.contextmanager
def collected() -> Iterator[Functions]:
    """Collect the functions of a call while it is read; gives them, and changes nothing else."""
    functions: dict[str, str] = {}
    token = _collected.set(functions)
    try:
        yield functions
    finally:
        _collected.reset(token)


def read(place: str, callback: object) -> ElixirFunction:
    """Read the function that stands at ``place``, by the id that the call gives it; within :func:`collected`.

    Raises:
        OperationError: Of kind ``input``: the id is no text.
    """
    callback_id = arguments.text(callback, f"{place}.callback")
    functions = _collected.get(None)
    if functions is not None:
        functions[place] = callback_id
    return ElixirFunction(place)


def refuse(place: str) -> OperationError:
    """Give the error about a function that would have to outlive its call."""
    return OperationError(
        "input",
        f"expected no function of Elixir at {place}: it can be called only while the call lasts that brings it; "
        "give it to execute_module",
        path=place,
    )
