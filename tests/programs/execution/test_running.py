"""A request ends cleanly even if nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
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
        with contextlib.suppress(asyncio.CancelledError):
            await task
        # Wait until the cancelled work has ended too.
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    assert reports == []
