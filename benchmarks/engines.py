"""Define language models that answer after a given delay, and functions that only wait.

A port calls the functions and uses the models; the peers that it is compared with use the same models.
"""

from __future__ import annotations

import asyncio
import time

import dspy
from dspy import lm15

_WAIT_S = 0.05
_COMPLETION = "[[ ## answer ## ]]\nIn the chloroplasts.\n\n[[ ## completed ## ]]"


class Engine:
    """An engine of ``dspy.LM`` that answers after a delay.

    Args:
        delay_s: The delay in seconds; 0 answers at once.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the completion after the delay."""
        if self._delay_s:
            time.sleep(self._delay_s)
        return _response(request)


class AsyncEngine:
    """The same engine for coroutines: it awaits the delay.

    Args:
        delay_s: The delay in seconds; 0 answers at once.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the completion after the delay."""
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        return _response(request)


def engines(delay_s: float) -> dict[str, object]:
    """Return both engines as arguments of ``dspy.LM``."""
    return {"engine": Engine(delay_s), "async_engine": AsyncEngine(delay_s)}


def replace_embedded_model(delay_s: float) -> None:
    """Make the provider ``embedded`` of this process, a port, answer after a delay."""
    from erlport_bridge.programs.models.embedded import engine

    model = engine.embedded_model().copy(**engines(delay_s))
    engine.embedded_model = lambda: model


async def wait() -> None:
    """Wait 50 ms, on the event loop."""
    await asyncio.sleep(_WAIT_S)


def wait_in_thread() -> None:
    """Wait 50 ms, in a thread."""
    time.sleep(_WAIT_S)


def language_model(delay_s: float) -> dspy.LM:
    """Return a language model for DSPy in plain Python."""
    return dspy.LM("benchmark/engine", cache=False, **engines(delay_s))


def _response(request: lm15.Request) -> lm15.Response:
    return lm15.Response(
        id=None,
        model=request.model,
        message=lm15.Message.assistant([lm15.TextPart(_COMPLETION)]),
        finish_reason="stop",
        usage=lm15.Usage(input_tokens=100, output_tokens=10, total_tokens=110),
    )
