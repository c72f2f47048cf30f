"""A batch reports nothing to asyncio's log, however its run ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest

from erlport_bridge.programs.execution import batch
from erlport_bridge.programs.execution.batch import BatchOptions


async def _fail_or_wait(item: Any) -> dict[str, Any]:
    if item == "fails":
        raise ValueError("as expected")
    await asyncio.sleep(10)
    return {}


async def _tell(_index: int, _result: object) -> None: ...


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_batch_that_ends_early_leaves_no_unretrieved_exception(is_cancelled: bool) -> None:
    reports: list[dict[str, Any]] = []
    items = ["waits", "waits"] if is_cancelled else ["waits", "fails"]

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))
        options = BatchOptions(max_concurrency=2, fails_fast=True)
        running = batch.run(items, _fail_or_wait, options, is_over=lambda: False, tell=_tell)
        task = asyncio.create_task(running)
        await asyncio.sleep(0.01)
        if is_cancelled:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert reports == []
