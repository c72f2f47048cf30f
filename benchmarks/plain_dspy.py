"""Measure DSPy in plain Python, as lines on stdin ask for it: ``python -m benchmarks.plain_dspy``.

This is a process of its own, as a port is. For each line on stdin it writes a line with the seconds that it took, or
with the rate and the CPU time of a closed loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import dspy

from benchmarks.engines import language_model

SIGNATURE = "context, question -> answer"
INPUTS = {
    "context": "Photosynthesis turns light into chemical energy. It happens in the chloroplasts of plants.",
    "question": "Where does photosynthesis happen?",
}

_Result = TypeVar("_Result")


def _settings(lm: dspy.LM) -> dict[str, object]:
    return {"lm": lm, "trace": [], "disable_history": True, "track_usage": True}


def one_after_another(count: int) -> None:
    """Make ``count`` predictions one after the other, with a model that answers at once."""
    predict, lm = _PREDICT, _AT_ONCE
    for _ in range(count):
        with dspy.context(**_settings(lm)):
            predict(**INPUTS)


def in_threads(count: int) -> None:
    """Make ``count`` predictions at once, each in a thread, with a model that takes 50 ms."""

    def ask(_number: int) -> object:
        with dspy.context(**_settings(_SLOW)):
            return _PREDICT(**INPUTS)

    assert len(list(_pool(count).map(ask, range(count)))) == count


def in_tasks(count: int) -> None:
    """Make ``count`` predictions at once, each in a task of asyncio, with a model that takes 50 ms."""

    async def ask() -> object:
        with dspy.context(**_settings(_SLOW)):
            return await _PREDICT.acall(**INPUTS)

    _LOOP.run_until_complete(_gather(ask, count))


def closed_loop(model: str, how: str, callers: int, seconds: float) -> tuple[float, float]:
    """Make predictions with ``callers`` at once, each of which begins the next one at once, for ``seconds``.

    Args:
        model: ``at_once`` or ``fifty_ms``.
        how: ``threads``; ``tasks`` of asyncio; ``loop``, one after the other.
        callers: How many at once; a plain loop has one.
        seconds: After that, no prediction begins.

    Returns:
        The predictions a second, until the last one has ended, and the CPU time of one, in µs.
    """
    lm = {"at_once": _AT_ONCE, "fifty_ms": _SLOW}[model]
    began_at, cpu_s = time.perf_counter(), time.process_time()
    ends_at = began_at + seconds

    def ask(_number: int = 0) -> int:
        count = 0
        while time.perf_counter() < ends_at:
            with dspy.context(**_settings(lm)):
                _PREDICT(**INPUTS)
            count += 1
        return count

    async def ask_in_task() -> int:
        count = 0
        while time.perf_counter() < ends_at:
            with dspy.context(**_settings(lm)):
                await _PREDICT.acall(**INPUTS)
            count += 1
        return count

    if how == "threads":
        count = sum(_pool(callers).map(ask, range(callers)))
    elif how == "tasks":
        count = sum(_LOOP.run_until_complete(_gather(ask_in_task, callers)))
    else:
        count = ask()
    return count / (time.perf_counter() - began_at), (time.process_time() - cpu_s) / count * 1e6


def first_chunk(url: str) -> float:
    """Return the seconds to the first chunk of a streamed answer."""
    lm = dspy.LM("openai/slow-1", api_base=url, api_key="none", cache=False, num_retries=0)

    async def read() -> float:
        stream = dspy.streamify(
            dspy.Predict("question -> answer"),
            stream_listeners=[dspy.streaming.StreamListener(signature_field_name="answer")],
        )
        found: list[float] = []
        started_at = time.perf_counter()
        with dspy.context(**_settings(lm)):
            # Read to the end: DSPy's generator cannot be closed before.
            async for chunk in stream(question="?"):
                if isinstance(chunk, dspy.streaming.StreamResponse):
                    found.append(time.perf_counter() - started_at)
        return found[0]

    return _LOOP.run_until_complete(read())


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(size: int) -> ThreadPoolExecutor:
    # The pool is kept, so that its threads exist when time is measured, as in a server.
    if size not in _pools:
        _pools[size] = ThreadPoolExecutor(size)
    return _pools[size]


async def _gather(work: Callable[[], Awaitable[_Result]], count: int) -> list[_Result]:
    return await asyncio.gather(*(work() for _ in range(count)))


def _main() -> None:
    counted = {"one_after_another": one_after_another, "in_threads": in_threads, "in_tasks": in_tasks}
    for line in sys.stdin:
        name, *arguments = line.split()
        if name == "first_chunk":
            print(first_chunk(*arguments), flush=True)
        elif name == "closed_loop":
            model, how, callers, seconds = arguments
            print(*closed_loop(model, how, int(callers), float(seconds)), flush=True)
        else:
            started_at = time.perf_counter()
            counted[name](*map(int, arguments))
            print(time.perf_counter() - started_at, flush=True)


if __name__ == "__main__":
    _LOOP = asyncio.new_event_loop()
    _AT_ONCE, _SLOW = language_model(0), language_model(0.05)
    _PREDICT = dspy.Predict(SIGNATURE)
    _main()
