"""Measure DSPy in plain Python, as lines on stdin ask for it: ``python -m benchmarks.plain_dspy``.

This is a process of its own, as a port is. For each line on stdin it writes a line with the seconds that it took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import dspy

from benchmarks.engines import language_model

SIGNATURE = "context, question -> answer"
INPUTS = {
    "context": "Photosynthesis turns light into chemical energy. It happens in the chloroplasts of plants.",
    "question": "Where does photosynthesis happen?",
}


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


async def _gather(work: Callable[[], Awaitable[object]], count: int) -> None:
    await asyncio.gather(*(work() for _ in range(count)))


def _main() -> None:
    counted = {"one_after_another": one_after_another, "in_threads": in_threads, "in_tasks": in_tasks}
    for line in sys.stdin:
        name, argument = line.split()
        started_at = time.perf_counter()
        if name == "first_chunk":
            print(first_chunk(argument), flush=True)
        else:
            counted[name](int(argument))
            print(time.perf_counter() - started_at, flush=True)


if __name__ == "__main__":
    _LOOP = asyncio.new_event_loop()
    _AT_ONCE, _SLOW = language_model(0), language_model(0.05)
    _PREDICT = dspy.Predict(SIGNATURE)
    _main()
