"""A request ends cleanly even if nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from typing import Any

import pytest

from erlport_bridge.programs.execution import running
from erlport_bridge.programs.models.model_account import ModelAccount
from erlport_bridge.request.progress import Progress


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_that_fails_while_it_is_cancelled_leaves_no_unretrieved_exception(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    reports: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))

        async def fail(*_arguments: object) -> None:
            if when == "before":
                task.cancel()
                raise ValueError("as expected")
            try:
                asyncio.get_running_loop().call_soon(task.cancel)
                await asyncio.sleep(10)
            finally:
                raise ValueError("as expected")

        monkeypatch.setattr(running, "_predict", fail)
        request: Any = None
        work = running.run(request, timeout_s=10, progress=Progress(), account=ModelAccount())
        task = asyncio.create_task(work)
        with contextlib.suppress(asyncio.CancelledError, ValueError):
            await task
        # Wait until the cancelled work has ended too.
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    assert reports == []


@pytest.mark.parametrize("turns", [0, 1])
def test_work_that_exits_is_an_error_of_its_request_alone(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    reports: list[dict[str, Any]] = []

    async def leave(*_arguments: object) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        sys.exit(3)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))
        monkeypatch.setattr(running, "_predict", leave)
        request: Any = None
        with pytest.raises(SystemExit):
            await running.run(request, timeout_s=10, progress=Progress(), account=ModelAccount())
        # The loop goes on.
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    assert reports == []


def test_time_that_the_first_step_takes_is_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []

    async def block_and_wait(*_arguments: object) -> None:
        time.sleep(0.3)
        await asyncio.sleep(60)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, *rest: Any, **named: Any) -> Any:
            delays.append(delay)
            return call_later(delay, *rest, **named)

        monkeypatch.setattr(loop, "call_later", noted)
        monkeypatch.setattr(running, "_predict", block_and_wait)
        monkeypatch.setattr(running, "timeout_error", lambda *_arguments: TimeoutError("as expected"))
        request: Any = None
        with pytest.raises(TimeoutError, match="as expected"):
            await running.run(request, timeout_s=0.4, progress=Progress(), account=ModelAccount())

    asyncio.run(main())
    # That of the call, not that of the work.
    assert min(delays) <= 0.1
