"""Stored programs, scored on examples."""

from __future__ import annotations

from typing import Any

from erlport_bridge.operations.batches import run_batch
from erlport_bridge.operations.calls import program_model
from erlport_bridge.operations.operation import operation, spending
from erlport_bridge.operations.programs import find_program, run_program
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import CallOptions, EventStream, batch, streaming
from erlport_bridge.programs.execution.evaluation import inputs_of, read_evaluation
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import Deadline


@operation
async def evaluate_program(
    session_id: object, program_id: object, examples: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program for each of a list of examples, and score its predictions with the option ``metric``.

    An example is a map with the program's inputs and whatever the metric compares with. Answers ``score``, ``count``,
    ``failed``, ``total_tokens``, ``duration_ms`` and ``results``: for each example ``{:ok, %{"prediction", "score"}}``
    (and ``"feedback"``), or ``{:error, …}``, which counts as ``failure_score``. Further options are those of a batch.
    """
    return await _evaluate(session_id, program_id, examples, arguments.options(opts, "opts"))


@operation
async def stream_evaluate(
    reply_to: object, ref: object, session_id: object, program_id: object, examples: object, opts: object = None
) -> dict[str, Any]:
    """Evaluate a program as ``evaluate_program`` does, and tell of each example as soon as it has its score.

    The events are those of ``stream_batch``, with ``{:ok, %{"prediction", "score"}}`` or ``{:error, …}`` as results.
    """
    given = arguments.options(opts, "opts")
    with streaming.opened(reply_to, ref, given.pop("buffer", None)) as events:
        return await _evaluate(session_id, program_id, examples, given, events)


async def _evaluate(
    session_id: object, program_id: object, examples: object, given: dict[str, Any], events: EventStream | None = None
) -> dict[str, Any]:
    deadline = Deadline()
    metric, failure_score = given.pop("metric", None), given.pop("failure_score", 0.0)
    batch_options = batch.take_options(given)
    whole = execution.read_call_options(given)
    program = find_program(session_id, program_id, whole)
    evaluation = read_evaluation(metric, failure_score, program.asked)

    async def execute(example: Any, options: CallOptions, item_deadline: Deadline) -> dict[str, Any]:
        inputs, labelled = inputs_of(program.asked, example)
        prediction = await run_program(program, inputs, options, item_deadline)
        with execution.asking(program_model(program, options), options):
            return await evaluation.scored(labelled, prediction, item_deadline.left_s(options.timeout_ms))

    try:
        answers = await run_batch(batch.items_of(examples), execute, whole, batch_options, deadline, events)
    finally:
        spending.get().add(evaluation.judging.spent)
    return evaluation.report(answers)
