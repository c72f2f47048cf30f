"""Make the HTTP request of a large prompt in a thread, as DSPy makes it on the event loop: 40 us for each message."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from dspy.clients import execution
from dspy.clients.backend_selection import select_backend

from erlport_bridge.request import weight

# The canonical request of a call, with the call and the `compat` that it was made for.
_made: Final[ContextVar[tuple[Any, Any, Any] | None]] = ContextVar("canonical_request", default=None)


def kept_canonical(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement for ``_canonical``, which makes the request of a call once where it is called twice."""

    def canonical(call: Any, *, compat: Any = None) -> Any:
        if not weight.of_request():
            return original(call, compat=compat)
        made = _made.get()
        if made is None or made[0] is not call or made[1] != compat:
            made = call, compat, original(call, compat=compat)
            _made.set(made)
        return made[2]

    return canonical


def building_aside(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a replacement for ``_build``, which makes the body of a request."""

    async def build(self: Any, build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if weight.of_request():
            return await weight.aside(partial(build, *args, **kwargs))
        return await original(self, build, *args, **kwargs)

    return build


async def make_request(lm: Any, call: Any) -> None:
    """Make the canonical request of a heavy call in a thread, so that ``aexecute`` finds it made."""
    if weight.of_request():
        await weight.aside(_make, lm, call)


def _make(lm: Any, call: Any) -> None:
    compat = None
    # Whatever is wrong is raised again, with DSPy's words, by `aexecute`.
    with contextlib.suppress(Exception):
        if isinstance(lm._engine_spec, str):
            selection = select_backend(lm, call.legacy)
            if not selection.native:
                return
            compat = selection.resolution.compat
        execution._canonical(call, compat=compat)
