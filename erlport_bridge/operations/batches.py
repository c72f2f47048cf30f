"""Run a module or a stored program for many inputs concurrently: ``execute_batch`` and its variants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from erlport_bridge.operations.calls import begin_module_call, begin_program_call, module_template, run, stream_of
from erlport_bridge.operations.operation import OK, failure_term, operation
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
from erlport_bridge.term import Atom


@operation
async def execute_batch(
    module: object, signature: object, list_of_inputs: object, opts: object = None
) -> list[tuple[Atom, Any]]:
    """Run a module for each element of a list; answer a list of ``{:ok, prediction}`` and ``{:error, …}`` in order.

    ``timeout`` is the budget of the whole batch, ``item_timeout`` that of each item. Items that have not ended by then
    are errors of kind ``timeout``; the results of the others are kept. ``max_concurrency`` is how many items run at the
    same time, at most 256. ``on_error: "fail_fast"`` cancels all other items after the first error.
    """
    request = begin_module_call(module, signature, opts, BATCH_OPTIONS)
    return await _module_batch(request, list_of_inputs)


@operation
async def stream_batch(
    reply_to: object, ref: object, module: object, signature: object, list_of_inputs: object, opts: object = None
) -> int:
    """Run a batch as ``execute_batch`` does, and send each result as soon as it is there; answer their number.

    The events are ``%{"type" => "result", "index" => index, "result" => {:ok, prediction} | {:error, …}}``.
    """
    request = begin_module_call(module, signature, opts, BATCH_OPTIONS | STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return len(await _module_batch(request, list_of_inputs, events))


@operation
async def execute_program_batch(
    session_id: object, program_id: object, list_of_inputs: object, opts: object = None
) -> list[tuple[Atom, Any]]:
    """Run a stored program for each element of a list, as :func:`execute_batch` and :func:`execute_program` do."""
    request = begin_program_call(opts, BATCH_OPTIONS)
    program = find_program(session_id, program_id, request)

    async def execute(inputs: Any, item: CallRequest) -> dict[str, Any]:
        return await run_program(program, inputs, item)

    return await run_batch(batch.items_of(list_of_inputs), execute, request)


async def run_batch(
    items: list[Any],
    execute: Callable[[Any, CallRequest], Awaitable[dict[str, Any]]],
    request: CallRequest,
    events: EventStream | None = None,
) -> list[tuple[Atom, Any]]:
    """Run the items of a batch, and send each result to ``events``."""
    options = BatchOptions.of(request.own)

    async def execute_item(inputs: Any) -> dict[str, Any]:
        return await execute(inputs, request.for_item(options.item_timeout_ms))

    async def tell(index: int, result: dict[str, Any] | BaseException) -> None:
        if events is not None:
            await events.send({"type": "result", "index": index, "result": _item_answer(result)})

    results = await batch.run(items, execute_item, options, is_over=lambda: request.left_s() == 0, tell=tell)
    return [_item_answer(result) for result in results]


async def _module_batch(
    request: ModuleCallRequest, list_of_inputs: object, events: EventStream | None = None
) -> list[tuple[Atom, Any]]:
    template = module_template(request)

    async def execute(inputs: Any, item: CallRequest) -> dict[str, Any]:
        values = execution.read_inputs(template.stages, request.stage.spec, inputs)
        return await run(replace(template, values=values, options=item.options), item)

    return await run_batch(batch.items_of(list_of_inputs), execute, request, events)


def _item_answer(result: dict[str, Any] | BaseException) -> tuple[Atom, Any]:
    return failure_term(result) if isinstance(result, BaseException) else (OK, result)
