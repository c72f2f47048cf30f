"""Test which functions the event loop hands to threads, and which it runs itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from erlport_bridge.port import event_loop
from erlport_bridge.threads import Threads

PROOFS = 3
variable: ContextVar[str] = ContextVar("variable")
waiting = threading.Event()


def where() -> str:
    return threading.current_thread().name


def seen_then_set() -> str:
    seen = variable.get()
    variable.set("changed")
    return seen


def maybe_slow(takes_s: float) -> str:
    time.sleep(takes_s)
    return threading.current_thread().name


def failing() -> None:
    raise ValueError("as expected")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return a function that runs a coroutine on an event loop of the port's class."""
    monkeypatch.setattr(event_loop, "_quick_modules", {__name__})
    loop = event_loop.start(Threads())
    return lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)


async def proved(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function until it counts as quick, and return its result; a busy machine may need several attempts."""
    for _ in range(200):
        result = await asyncio.to_thread(function, *arguments)
        if result == "loop":
            break
    return result


def test_function_that_has_been_quick_runs_on_the_loop(run: Callable[..., Any]) -> None:
    async def first() -> Any:
        return await asyncio.to_thread(where)

    assert run(first()).startswith("call-")
    assert run(proved(where)) == "loop"


def test_function_that_was_slow_once_is_handed_to_a_thread_again(run: Callable[..., Any]) -> None:
    async def slow_then_quick() -> tuple[str, str]:
        await proved(maybe_slow, 0)
        return await asyncio.to_thread(maybe_slow, 0.01), await asyncio.to_thread(maybe_slow, 0)

    where_slow, where_after = run(slow_then_quick())
    assert where_slow == "loop"
    assert where_after.startswith("call-")


def test_function_of_another_module_is_always_handed_to_a_thread(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "_quick_modules", {"another"})
    assert run(proved(where)).startswith("call-")


def test_exception_of_a_quick_function_is_raised_where_it_is_awaited(run: Callable[..., Any]) -> None:
    async def raised() -> None:
        for _ in range(10):
            with pytest.raises(ValueError, match="as expected"):
                await asyncio.to_thread(failing)

    run(raised())


def test_quick_function_sees_its_callers_context_and_does_not_change_it(run: Callable[..., Any]) -> None:
    async def seen() -> set[str]:
        variable.set("mine")
        return {await asyncio.to_thread(seen_then_set) for _ in range(20)}

    assert run(seen()) == {"mine"}
