"""Run one module under its deadline, in a DSPy context of its own, and return its prediction as a term."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from erlport_bridge import errors
from erlport_bridge import request as running_request
from erlport_bridge.errors import OperationError
from erlport_bridge.programs import models, sandbox
from erlport_bridge.programs.execution import output_checks
from erlport_bridge.programs.execution.call_options import CallOptions
from erlport_bridge.programs.execution.dspy_context import dspy_context
from erlport_bridge.programs.execution.output_checks import is_parse_error, parse_error
from erlport_bridge.programs.execution.prediction_terms import is_heavy, prediction_term
from erlport_bridge.programs.execution.streaming import EventStream, StreamCallback
from erlport_bridge.programs.models import LanguageModel, ModelAccount, OwnModels
from erlport_bridge.programs.pipelines import Pipeline, Stage
from erlport_bridge.programs.text import quoted
from erlport_bridge.programs.tools import CallEndedError
from erlport_bridge.request import Progress, turns, weight, within


@dataclass(frozen=True)
class PreparedRun:
    """A module with checked inputs, ready.

    Attributes:
        model: The model that is asked; ``None``: none is configured, and no stage needs one.
        own_models: The models of stages and predictors that have their own, by their names.
    """

    module: Pipeline
    stages: tuple[Stage, ...]
    values: Mapping[str, Any]
    model: LanguageModel | None
    options: CallOptions
    own_models: Mapping[str, dspy.LM] = field(default_factory=dict)

    @property
    def models(self) -> list[LanguageModel]:
        """The model that is asked, and those of stages and predictors that have their own."""
        own = (model for stage in self.stages for model in stage.models)
        return [model for model in (self.model, *own) if model is not None]


async def run(
    prepared: PreparedRun,
    *,
    timeout_s: float | None,
    progress: Progress,
    account: ModelAccount,
    events: EventStream | None = None,
) -> dict[str, Any]:
    """Run a module under its deadline.

    Args:
        prepared: The module and its inputs.
        timeout_s: What is left of the caller's budget, in seconds; ``None``: no limit.
        progress: Records the stage that the run has reached.
        account: Collects the usage and cost of the run's model requests.
        events: The stream that reports the run while it lasts.

    Returns:
        The prediction as a term: its fields, and ``$meta``.

    Raises:
        OperationError: Of kind ``timeout``, with the stage in which the time ran out; the run is cancelled. Of kind
            ``budget``: nothing may be spent any more; the run is cancelled.
        Exception: Any exception of DSPy.
    """
    try:
        return await _run(prepared, timeout_s, progress, account, events)
    except BaseException as error:
        account.note_paid(error)
        raise


async def _run(
    prepared: PreparedRun,
    timeout_s: float | None,
    progress: Progress,
    account: ModelAccount,
    events: EventStream | None,
) -> dict[str, Any]:
    if timeout_s == 0:
        raise timeout_error(prepared, "queue")
    progress.end_after(timeout_s)
    progress.follow()
    account.follow()
    running_request.queued.set(progress.queued)
    running_request.ends_at.set(None if timeout_s is None else time.monotonic() + timeout_s)
    started_at = time.monotonic()
    with sandbox.Sandboxes() as sandboxes:
        work = progress.begin(_predict(prepared, sandboxes, events))
        try:
            ended = await progress.end_of(work)
            if ended is not None:
                raise ended
            if not work.done():
                is_reader = events is not None and events.is_waiting
                raise timeout_error(prepared, "reader" if is_reader else progress.stage, progress.failure)
            prediction = work.result()
        except CallEndedError as ended:
            raise ended.__cause__ or ended from None
        except (RecursionError, ValueError, dspy.AdapterParseError) as error:
            if not (isinstance(error, dspy.AdapterParseError) or is_parse_error(error)):
                raise
            raise parse_error(error) from error
        finally:
            # Nobody may await the work any more; asyncio would log an exception that is never retrieved.
            if work.done():
                _retrieve_exception(work)
            else:
                work.cancel()
                work.add_done_callback(_retrieve_exception)
    duration_ms = (time.monotonic() - started_at) * 1000
    return await weight.aside(
        *(prediction_term, prediction, prepared.options, prepared.models, account, duration_ms),
        heavy=is_heavy(prediction),
    )


def _retrieve_exception(ended: asyncio.Future[Any]) -> None:
    if not ended.cancelled():
        ended.exception()


def timeout_error(prepared: PreparedRun, stage: str, cause: Exception | None = None) -> OperationError:
    """Return the error of a request whose deadline passed in ``stage``.

    Args:
        prepared: The run.
        stage: Where the time went.
        cause: The failure after which a model was asked again, or another model.
    """
    return errors.timeout_error(
        f"no answer within {prepared.options.timeout_ms} ms; the time ran out in stage {quoted(stage)}",
        stage=stage,
        model=prepared.model.model if prepared.model else None,
        cause=cause,
    )


async def _predict(
    prepared: PreparedRun,
    sandboxes: sandbox.Sandboxes,
    events: EventStream | None,
) -> dspy.Prediction:
    try:
        await turns.turn()
    except turns.CannotBeginError as late:
        raise OperationError("overloaded", str(late), stage="queue", retry_after=late.retry_after_s) from None
    if any(stage.needs_sandbox for stage in prepared.stages):
        # Fail here, before a model request costs anything.
        with within("sandbox"):
            await sandbox.probe()
        sandboxes.prepare()
    for stage in prepared.stages:
        prepared.options.adapter.check(stage.spec)
    lm = models.with_settings(prepared.model.lm, prepared.options.settings) if prepared.model else None
    named = dict(prepared.own_models)
    if prepared.options.adapter.calls_natively:
        lm = lm.calling_tools() if lm else None
        named = {name: own.calling_tools() for name, own in named.items()}
    adapter = prepared.options.adapter.build()
    callback = None if events is None else _stream_callback(prepared, events)
    with dspy_context(
        lm,
        adapter,
        track_usage=True,
        callbacks=[] if callback is None else [callback],
        interpreter_factory=sandboxes.factory,
        own_models=OwnModels(lm, named),
        **({} if callback is None else callback.settings()),
    ):
        # Text that the stream has sent cannot be taken back, so the model is not asked again.
        retries = 0 if callback else prepared.options.parse_retries
        with models.retrying(retries):
            prediction = await output_checks.checked(prepared.module.predict, prepared.stages, prepared.values)
    if callback is not None:
        await callback.finish(prediction)
    return prediction


def _stream_callback(prepared: PreparedRun, events: EventStream) -> StreamCallback:
    writes_in_pieces = bool(prepared.models) and all(model.writes_in_pieces for model in prepared.models)
    reads_chat = prepared.options.adapter.name == "chat" and writes_in_pieces
    return StreamCallback(events, prepared.module, reads_chat=reads_chat)
