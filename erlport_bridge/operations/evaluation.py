"""Score stored programs on examples: ``evaluate_program`` and ``stream_evaluate``."""

from __future__ import annotations

from typing import Any

from erlport_bridge.operations.batches import run_batch
from erlport_bridge.operations.calls import begin_program_call, program_model, stream_of
from erlport_bridge.operations.operation import batch_operation, spending
from erlport_bridge.operations.programs import find_program, run_program
from erlport_bridge.programs.execution import (
    EVALUATION_OPTIONS,
    META,
    STREAM_OPTIONS,
    CallRequest,
    Evaluation,
    EventStream,
    batch,
    dspy_context,
    inputs_of,
)
from erlport_bridge.programs.models import ModelAccount, with_settings


@batch_operation
async def evaluate_program(
    session_id: object, program_id: object, examples: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program for each example of a list, and score its predictions with the option ``metric``.

    An example is a map of the program's inputs and of the fields that the metric compares with. Answers ``score``,
    ``count``, ``failed``, ``total_tokens``, ``metric_tokens`` (the metric's own share of them), ``duration_ms``,
    ``warnings`` and ``results``. Each result is ``{:ok, %{"prediction", "score"}}``, also with ``"feedback"`` if the
    metric gave some, or ``{:error, …}``, which counts as ``failure_score``. The other options are those of a batch.
    """
    return await _evaluate(session_id, program_id, examples, await begin_program_call(opts, EVALUATION_OPTIONS))


@batch_operation
async def stream_evaluate(
    reply_to: object, ref: object, session_id: object, program_id: object, examples: object, opts: object = None
) -> dict[str, Any]:
    """Evaluate a program as ``evaluate_program`` does, and send each example's result as soon as it has its score.

    The events are those of ``stream_batch``, with ``{:ok, %{"prediction", "score"}}`` or ``{:error, …}`` as results.
    """
    request = await begin_program_call(opts, EVALUATION_OPTIONS | STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return await _evaluate(session_id, program_id, examples, request, events)


async def _evaluate(
    session_id: object, program_id: object, examples: object, request: CallRequest, events: EventStream | None = None
) -> dict[str, Any]:
    program = await find_program(session_id, program_id, request)
    evaluation = Evaluation.of(request.own, program.asked, program.prediction_fields)
    # Of the whole operation, with what examples have spent that failed.
    spent = spending.get()

    async def execute(numbered: tuple[int, Any], item: CallRequest) -> dict[str, Any]:
        index, example = numbered
        path = f"examples[{index}]"
        inputs, labelled = inputs_of(program.stages, program.asked, example, path)
        evaluation.require(labelled, path)
        prediction = await run_program(program, inputs, item, is_told=False)
        judge = with_settings(program_model(program, item).lm, item.options.settings)
        account = ModelAccount()
        account.follow()
        try:
            with dspy_context(judge, item.options.adapter.build()):
                return await evaluation.scored(labelled, prediction, item.left_s())
        except BaseException as error:
            account.note_paid(error, prediction[META])
            raise
        finally:
            evaluation.judging.add(account.spent)

    try:
        answers = await run_batch(
            list(enumerate(batch.items_of(examples, "examples", "maps"))), execute, request, events
        )
    finally:
        spent.add(evaluation.judging)
    return evaluation.report(answers, spent.tokens, request.options.warnings)
