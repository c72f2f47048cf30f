"""Run one module or program for many inputs, a bounded number at a time, each with its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from erlport_bridge.errors import OperationError, copy_paid
from erlport_bridge.programs.options import ChoiceOption, IntegerOption, TimeoutOption, Vocabulary, wrong
from erlport_bridge.term import shown

_FAIL_FAST: Final = "fail_fast"


class _OnErrorOption(ChoiceOption):
    """One of two choices; an error names both."""

    def _read(self, value: object, path: str) -> str:
        if value in self.choices:
            return str(value)
        raise wrong(" or ".join(f'"{choice}"' for choice in self.choices), value, path)


#: The options of a batch besides the options of its calls.
BATCH_OPTIONS: Final = Vocabulary(
    # A call takes about 1 ms of this process's CPU time: more items at a time gain nothing and delay other calls.
    IntegerOption(
        name="max_concurrency", default=16, minimum=1, maximum=256, description="items that run at the same time"
    ),
    TimeoutOption(name="item_timeout", description="the budget of each item, within the budget of the batch"),
    _OnErrorOption(
        name="on_error",
        default="collect",
        choices=("collect", _FAIL_FAST),
        description="whether the first error ends the other items",
    ),
)

_Answer = TypeVar("_Answer")
# Items that never began are answered so many at a time, and between them others may run.
_LEFT_OUT_AT_ONCE: Final = 100
# How long a task has to end before it is cancelled once more.
_CANCELLED_AGAIN_S: Final = 0.5


class BatchOptions(NamedTuple):
    """The options of a batch, checked.

    Attributes:
        max_concurrency: How many items run at the same time.
        item_timeout_ms: The budget of each item, within the budget of the batch; ``None``: no limit of its own.
        fails_fast: Whether the first error cancels the other items.
    """

    max_concurrency: int = 16
    item_timeout_ms: int | None = None
    fails_fast: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> BatchOptions:
        """Return the options of a batch, from the caller's values for :data:`BATCH_OPTIONS`."""
        read = BATCH_OPTIONS.with_defaults(given)
        return cls(read["max_concurrency"], read["item_timeout"], read["on_error"] == _FAIL_FAST)


def items_of(value: object, path: str = "inputs", elements: str = "maps or texts") -> list[Any]:
    """Return the inputs of a batch, or the examples of an evaluation, one element per item.

    ``elements`` says in the error what the list holds.

    Raises:
        OperationError: Of kind ``input``: the value is not a list.
    """
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of {elements} at {path}, got {shown(value)}", path=path)
    return value


async def run(
    items: list[Any],
    execute: Callable[[Any], Awaitable[dict[str, Any]]],
    options: BatchOptions,
    *,
    is_over: Callable[[], bool],
    answer_of: Callable[[dict[str, Any] | BaseException], _Answer],
    tell: Callable[[int, _Answer], Awaitable[None]],
) -> list[_Answer]:
    """Run all items of a batch.

    Args:
        items: The inputs of each item.
        execute: Runs one item under its deadline.
        options: The options of the batch.
        is_over: Returns whether the deadline of the batch has passed, after which no further item begins.
        answer_of: Makes an item's answer of its result, or of its exception if it failed.
        tell: Called with each item's index and its answer as soon as there is one, and awaited, so that a slow reader
            slows the batch down (back-pressure).

    Returns:
        The answers in the order of the items, also for items that exceeded their deadline or never began.
    """
    answers: dict[int, _Answer] = {}
    failures: list[int] = []
    interrupted: dict[int, BaseException] = {}
    waiting = iter(enumerate(items))
    failed, has_ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        for index, inputs in waiting:
            # After a failure, and after the end, none begins: what cancels it may come too late, see `_end`.
            if is_over() or failed.is_set() or has_ended.is_set():
                return
            try:
                result: dict[str, Any] | BaseException = await execute(inputs)
            except Exception as error:  # noqa: BLE001 - the error of one item is its result
                result = error
                failures.append(index)
                if options.fails_fast:
                    failed.set()
            except asyncio.CancelledError as cancelled:
                interrupted[index] = cancelled
                raise
            answers[index] = answer_of(result)
            await tell(index, answers[index])
            # An item that never suspends must not block other calls on the event loop.
            await asyncio.sleep(0)

    await _until(failed, has_ended, [work() for _ in range(min(options.max_concurrency, len(items)))])
    if len(answers) < len(items):
        # All items that never began share one error: making ten thousand of them would delay the answer.
        because = failures if failed.is_set() else []
        left_out = answer_of(_left_out(because))
        missing = (index for index in range(len(items)) if index not in answers)
        for count, index in enumerate(missing, 1):
            begun = interrupted.get(index)
            answers[index] = left_out if begun is None else answer_of(copy_paid(begun, _left_out(because)))
            await tell(index, answers[index])
            if count % _LEFT_OUT_AT_ONCE == 0:
                await asyncio.sleep(0)
    return [answers[index] for index in range(len(items))]


async def _until(failed: asyncio.Event, has_ended: asyncio.Event, work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all coroutines concurrently; cancel them when ``failed`` is set. Sets ``has_ended`` before it cancels any."""
    tasks = [asyncio.ensure_future(one) for one in work]
    ended = asyncio.ensure_future(failed.wait())
    try:
        done = asyncio.gather(*tasks)
        # If nobody awaits the future any more, asyncio would log its exception as never retrieved.
        done.add_done_callback(lambda gathered: gathered.cancelled() or gathered.exception())
        either: set[asyncio.Future[Any]] = {done, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not failed.is_set():
            await done
    finally:
        has_ended.set()
        ended.cancel()
        await _end(tasks)


async def _end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks until they have ended: one may catch that, as `asyncio.wait_for` does before Python 3.12."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCELLED_AGAIN_S)


def _left_out(failures: list[int]) -> OperationError:
    if not failures:
        return OperationError("timeout", "the time of the batch ran out before this item began", stage="queue")
    return OperationError("cancelled", f"not done, since item {min(failures)} failed and on_error is fail_fast")
