"""Run a module or a stored program for many inputs concurrently: ``execute_batch`` and its variants."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from erlport_bridge.operations.calls import begin_module_call, begin_program_call, module_template, run, stream_of
from erlport_bridge.operations.operation import OK, Answer, batch_operation, failure_term
from erlport_bridge.operations.programs import find_program, run_program
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import (
    BATCH_OPTIONS,
    STREAM_OPTIONS,
    BatchOptions,
    CallRequest,
    EventStream,
    ModuleCallRequest,
    batch,
)
from erlport_bridge.request import asking, ends_at, weight
from erlport_bridge.term import sort_maps
from erlport_bridge.tracing import Recording, here, record


@batch_operation
async def execute_batch(module: object, signature: object, inputs: object, opts: object = None) -> list[Answer]:
    """Run a module for each element of a list; answer a list of ``{:ok, prediction}`` and ``{:error, …}`` in order.

    ``timeout`` is the budget of the whole batch, ``item_timeout`` that of each item. Items that have not ended by then
    are errors of kind ``timeout``; the results of the others are kept. ``max_concurrency`` is how many items run at the
    same time, at most 256. ``on_error: "fail_fast"`` cancels all other items after the first error.
    """
    request = await begin_module_call(module, signature, opts, BATCH_OPTIONS)
    return await _module_batch(request, inputs)


@batch_operation
async def stream_batch(
    reply_to: object, ref: object, module: object, signature: object, inputs: object, opts: object = None
) -> int:
    """Run a batch as ``execute_batch`` does, and send each result as soon as it is there; answer their number.

    The events are ``%{"type" => "result", "index" => index, "result" => {:ok, prediction} | {:error, …}}``.
    """
    request = await begin_module_call(module, signature, opts, BATCH_OPTIONS | STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return len(await _module_batch(request, inputs, events))


@batch_operation
async def execute_program_batch(
    session_id: object, program_id: object, inputs: object, opts: object = None
) -> list[Answer]:
    """Run a stored program for each element of a list, as :func:`execute_batch` and :func:`execute_program` do."""
    request = await begin_program_call(opts, BATCH_OPTIONS)
    return await _program_batch(session_id, program_id, inputs, request)


@batch_operation
async def stream_program_batch(
    reply_to: object,
    ref: object,
    session_id: object,
    program_id: object,
    inputs: object,
    opts: object = None,
) -> int:
    """Run a stored program for each element of a list, and send the results as :func:`stream_batch` does."""
    request = await begin_program_call(opts, BATCH_OPTIONS | STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return len(await _program_batch(session_id, program_id, inputs, request, events))


async def run_batch(
    items: list[Any],
    execute: Callable[[Any, CallRequest], Awaitable[dict[str, Any]]],
    request: CallRequest,
    events: EventStream | None = None,
) -> list[Answer]:
    """Run the items of a batch, and send each result to ``events``; each answer has the trace of its item, if any."""
    options = BatchOptions.of(request.own)
    traces = _ItemTraces()

    async def execute_item(numbered: tuple[int, Any]) -> dict[str, Any]:
        index, inputs = numbered
        asking.note_begun(index + 1)
        with traces.item(index):
            return await execute_one(inputs)

    async def execute_one(inputs: Any) -> dict[str, Any]:
        item = request.for_item(options.item_timeout_ms)
        left_s = item.left_s()
        ends_at.set(None if left_s is None else time.monotonic() + left_s)
        # Of the whole batch, only what is read at once is heavy.
        weight.weigh(inputs, request.options.demos)
        await weight.aside(sort_maps, [inputs])
        return await execute(inputs, item)

    async def tell(index: int, answer: Answer) -> None:
        if events is not None:
            await events.send({"type": "result", "index": index, "result": traces.with_trace(index, answer)})

    answers = await batch.run(
        list(enumerate(items)),
        execute_item,
        options,
        is_over=lambda: request.left_s() == 0,
        answer_of=_item_answer,
        tell=tell,
    )
    return [traces.with_trace(index, answer) for index, answer in enumerate(answers)]


class _ItemTraces:
    """The traces of the items of a batch, if the call wants a trace: each answer has the spans of its item."""

    def __init__(self) -> None:
        self._recordings: dict[int, Recording] = {}
        self._taken: dict[int, dict[str, Any]] = {}

    def item(self, index: int) -> contextlib.AbstractContextManager[Any]:
        """Return a context manager whose body runs an item."""
        place = here()
        if place is None:
            return contextlib.nullcontext()
        recording = self._recordings[index] = place.recording.part(place.span)
        return record(recording, "item", f"item {index}", index=index)

    def with_trace(self, index: int, answer: Answer) -> Answer:
        """Return the answer of an item with its trace, if it has begun; also that of an item that was cancelled."""
        recording = self._recordings.pop(index, None)
        if recording is not None and recording.is_told:
            self._taken[index] = recording.term()
        elif recording is not None:
            recording.close()
        return (*answer, self._taken[index]) if index in self._taken else answer


async def _module_batch(
    request: ModuleCallRequest, list_of_inputs: object, events: EventStream | None = None
) -> list[Answer]:
    template = await module_template(request)

    async def execute(inputs: Any, item: CallRequest) -> dict[str, Any]:
        values = await weight.aside(execution.read_inputs, template.stages, request.stage.spec, inputs)
        return await run(replace(template, values=values, options=item.options), item)

    return await run_batch(batch.items_of(list_of_inputs), execute, request, events)


async def _program_batch(
    session_id: object,
    program_id: object,
    list_of_inputs: object,
    request: CallRequest,
    events: EventStream | None = None,
) -> list[Answer]:
    program = await find_program(session_id, program_id, request)

    async def execute(numbered: tuple[int, Any], item: CallRequest) -> dict[str, Any]:
        index, inputs = numbered
        return await run_program(program, inputs, item, index=index)

    return await run_batch(list(enumerate(batch.items_of(list_of_inputs))), execute, request, events)


def _item_answer(result: dict[str, Any] | BaseException) -> Answer:
    return failure_term(result) if isinstance(result, BaseException) else (OK, result)
