"""Many runs at the same time, of a module or of a stored program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from erlport_bridge.operations.calls import module_request, read_call, run
from erlport_bridge.operations.operation import OK, failure_term, operation
from erlport_bridge.operations.programs import find_program, run_program
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import BatchOptions, CallOptions, EventStream, batch, streaming
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import Deadline
from erlport_bridge.term import Atom


@operation
async def execute_batch(
    module: object, signature: object, list_of_inputs: object, opts: object = None
) -> list[tuple[Atom, Any]]:
    """Run a module for each element of a list; answers a list of ``{:ok, prediction}`` and ``{:error, …}`` in order.

    ``timeout`` is for all of them together, ``item_timeout`` for each: what is not done by then is a timeout, the rest
    is kept. ``max_concurrency`` says how many run at the same time, 256 at most; ``on_error: "fail_fast"`` ends all
    with the first that fails.
    """
    return await _module_batch(module, signature, list_of_inputs, arguments.options(opts, "opts"))


@operation
async def stream_batch(
    reply_to: object, ref: object, module: object, signature: object, list_of_inputs: object, opts: object = None
) -> int:
    """Run a batch as ``execute_batch`` does, and tell of each result as soon as it is there; answers their number.

    The events are ``%{"type" => "result", "index" => index, "result" => {:ok, prediction} | {:error, …}}``.
    """
    given = arguments.options(opts, "opts")
    with streaming.opened(reply_to, ref, given.pop("buffer", None)) as events:
        return len(await _module_batch(module, signature, list_of_inputs, given, events))


@operation
async def execute_program_batch(
    session_id: object, program_id: object, list_of_inputs: object, opts: object = None
) -> list[tuple[Atom, Any]]:
    """Run a stored program for each element of a list; see :func:`execute_batch` and :func:`execute_program`."""
    deadline = Deadline()
    given = arguments.options(opts, "opts")
    batch_options = batch.take_options(given)
    whole = execution.read_call_options(given)
    program = find_program(session_id, program_id, whole)

    async def execute(inputs: Any, options: CallOptions, item_deadline: Deadline) -> dict[str, Any]:
        return await run_program(program, inputs, options, item_deadline)

    return await run_batch(batch.items_of(list_of_inputs), execute, whole, batch_options, deadline)


async def run_batch(
    items: list[Any],
    execute: Callable[[Any, CallOptions, Deadline], Awaitable[dict[str, Any]]],
    whole: CallOptions,
    batch_options: BatchOptions,
    deadline: Deadline,
    events: EventStream | None = None,
) -> list[tuple[Atom, Any]]:
    """Run the items of a batch, whose options are ``whole``, and tell of each of them."""

    async def execute_item(inputs: Any) -> dict[str, Any]:
        options, item_deadline = whole, deadline
        if batch_options.item_timeout_ms is not None:
            left_s = deadline.left_s(whole.timeout_ms)
            if left_s is None or left_s * 1000 > batch_options.item_timeout_ms:
                options, item_deadline = replace(whole, timeout_ms=batch_options.item_timeout_ms), Deadline()
        return await execute(inputs, options, item_deadline)

    async def tell(index: int, result: dict[str, Any] | BaseException) -> None:
        if events is not None:
            await events.send({"type": "result", "index": index, "result": _item_answer(result)})

    results = await batch.run(
        items, execute_item, batch_options, is_over=lambda: deadline.left_s(whole.timeout_ms) == 0, tell=tell
    )
    return [_item_answer(result) for result in results]


async def _module_batch(
    module: object, signature: object, list_of_inputs: object, given: dict[str, Any], events: EventStream | None = None
) -> list[tuple[Atom, Any]]:
    deadline = Deadline()
    batch_options = batch.take_options(given)
    stage, whole = read_call(module, signature, given)
    template = module_request(stage, {}, whole)

    async def execute(inputs: Any, options: CallOptions, item_deadline: Deadline) -> dict[str, Any]:
        values = execution.read_inputs((stage,), stage.spec, inputs)
        return await run(replace(template, values=values, options=options), item_deadline)

    return await run_batch(batch.items_of(list_of_inputs), execute, whole, batch_options, deadline, events)


def _item_answer(result: dict[str, Any] | BaseException) -> tuple[Atom, Any]:
    return failure_term(result) if isinstance(result, BaseException) else (OK, result)
