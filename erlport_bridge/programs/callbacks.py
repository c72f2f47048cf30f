"""Callbacks: Elixir functions that a call passes to Python, callable while that call runs.

On the wire a function is an id by which Elixir finds it. The place of the function in the call, such as
``spec.reward``, is the same for every call, so the built module, which calls share, holds the place. The id differs
from call to call, so the context of the call holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from erlport_bridge.errors import OperationError
from erlport_bridge.port import elixir
from erlport_bridge.programs.text import arguments

_CALLBACKS_MODULE: Final = "Elixir.DSPex.Python.Callbacks"
_CALLBACKS_FUNCTION: Final = "call"

#: The ids of a call's functions, by place.
Functions: TypeAlias = Mapping[str, str]

# The functions of the call that runs in this context.
_ids: ContextVar[Functions] = ContextVar("elixir_functions")
# The functions found so far in the call that is being read in this context.
_collected: ContextVar[dict[str, str]] = ContextVar("collected_functions")


@dataclass(frozen=True)
class ElixirFunction:
    """An Elixir function, named by its place in a call (``spec.reward``); functions of one place are equal."""

    place: str

    async def call(self, given: Mapping[str, Any]) -> Any:
        """Call the function with one map and return its result; holds no thread, and ends at once on cancellation.

        Raises:
            OperationError: Of kind ``tool``: the function failed; the message is one sentence.
            EncodeError: ``given`` cannot be encoded.
        """
        return await elixir.call(_CALLBACKS_MODULE, _CALLBACKS_FUNCTION, [_ids.get()[self.place], dict(given)])

    def call_in_thread(self, given: Mapping[str, Any]) -> Any:
        """Call the function from a thread without an event loop; see :meth:`call`."""
        return asyncio.run(self.call(given))


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


def read(place: str, callback: object) -> ElixirFunction:
    """Read the id of the function at ``place`` and return the function; use within :class:`Collecting`.

    Raises:
        OperationError: Of kind ``input``: the id is not text.
    """
    callback_id = arguments.text(callback, f"{place}.callback")
    functions = _collected.get(None)
    if functions is not None:
        functions[place] = callback_id
    return ElixirFunction(place)


def refuse(place: str) -> OperationError:
    """Return the error about a function at a place where it would have to outlive its call."""
    return OperationError(
        "input",
        f"expected no function of Elixir at {place}: it can be called only while the call lasts that brings it; "
        "give it to execute_module",
        path=place,
    )
