"""A batch reports nothing to asyncio's log, however its run ends; what never began costs next to nothing."""

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


async def _tell(_index: int, _answer: object) -> None: ...


def _answer_of(result: object) -> object:
    return result


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_batch_that_ends_early_leaves_no_unretrieved_exception(is_cancelled: bool) -> None:
    reports: list[dict[str, Any]] = []
    items = ["waits", "waits"] if is_cancelled else ["waits", "fails"]

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))
        options = BatchOptions(max_concurrency=2, fails_fast=True)
        running = batch.run(items, _fail_or_wait, options, is_over=lambda: False, answer_of=_answer_of, tell=_tell)
        task = asyncio.create_task(running)
        await asyncio.sleep(0.01)
        if is_cancelled:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert reports == []


def test_items_that_never_began_share_one_answer() -> None:
    """Each of them took 0.5 ms after the deadline: five seconds for ten thousand."""
    made: list[object] = []

    def answer_of(result: object) -> object:
        made.append(result)
        return result

    async def main() -> list[object]:
        return await batch.run(
            *(["late"] * 10_000, _fail_or_wait, BatchOptions()),
            is_over=lambda: True,
            answer_of=answer_of,
            tell=_tell,
        )

    answers = asyncio.run(main())
    assert len(answers) == 10_000
    assert answers == made * 10_000


def test_a_cancelled_batch_ends_although_an_item_has_caught_its_cancellation() -> None:
    """``asyncio.wait_for`` catches it before Python 3.12, and a reader that has gone takes no further answer."""
    begun: list[object] = []

    async def execute(item: Any) -> dict[str, Any]:
        begun.append(item)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return {}

    async def tell_nobody(_index: int, _answer: object) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        running = batch.run(
            *(list(range(10)), execute, BatchOptions(max_concurrency=2)),
            is_over=lambda: False,
            answer_of=_answer_of,
            tell=tell_nobody,
        )
        task = asyncio.create_task(running)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.cancelled()

    asyncio.run(main())
    assert begun == [0, 1]
