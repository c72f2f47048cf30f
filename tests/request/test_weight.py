"""Heavy values are recognized in bounded time, and work on them runs in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Any

import pydantic
import pytest

from erlport_bridge.request import weight

_set: ContextVar[str] = ContextVar("set", default="")


class _Model(pydantic.BaseModel):
    text: str


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000,
        b"x" * 100_000,
        ["x" * 1_000] * 100,
        {"a": {"b": ["x" * 100_000]}},
        {"x" * 100_000: 1},
        list(range(10_000)),
        ({},) * 10_000,
        dict.fromkeys(range(10_000), 1),
        10**400_000,
        _Model(text="x" * 100_000),
        [[["x" * 100] * 10] * 10] * 10,
    ],
    ids=[*("text", "bytes", "texts", "nested", "key", "numbers", "tuple", "map", "integer", "object", "tree")],
)
def test_what_is_large_is_heavy(value: Any) -> None:
    assert weight.is_heavy(value)
    assert weight.is_heavy(1, {"a": value})


@pytest.mark.parametrize("value", [None, 1, "text", {"question": "x" * 1_000}, [1.5] * 100, _Model(text="x")])
def test_what_is_usual_is_not_heavy(value: Any) -> None:
    assert not weight.is_heavy(value)


def test_weighing_takes_bounded_time() -> None:
    """It runs on the event loop itself."""
    huge = [{"a": [1, 2, 3]} for _ in range(500_000)]
    started_at = time.thread_time()
    assert weight.is_heavy(huge)
    assert time.thread_time() - started_at < 0.1


def test_a_value_that_contains_itself_is_weighed() -> None:
    value: list[Any] = []
    value.append(value)
    assert weight.is_heavy(value)


@pytest.mark.parametrize("is_heavy", [True, False])
def test_heavy_work_runs_in_a_thread(is_heavy: bool) -> None:
    def work(given: str) -> int:
        _set.set(given)
        return threading.get_ident()

    async def main() -> tuple[int, str]:
        weight.weigh("x" * 100_000 if is_heavy else "x")
        return await weight.aside(work, "by the work"), _set.get()

    found = asyncio.run(main())
    assert (found[0] != threading.get_ident()) is is_heavy
    assert found[1] == "by the work"


def test_few_pieces_of_heavy_work_run_at_once() -> None:
    """Each computing thread may keep the event loop waiting for the GIL."""
    running, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def main() -> None:
        await asyncio.gather(*[weight.aside(work, heavy=True) for _ in range(20)])

    asyncio.run(main())
    assert most <= 4
