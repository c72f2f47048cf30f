"""What the operations that execute something have in common: from their arguments to a request, and its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from erlport_bridge import errors
from erlport_bridge.errors import OperationError
from erlport_bridge.operations.operation import spending
from erlport_bridge.operations.port_state import metrics, sessions
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import CallOptions, EventStream, Request
from erlport_bridge.programs.models import LanguageModel, ModelAccount
from erlport_bridge.programs.pipelines import Stage, pipeline, stages
from erlport_bridge.programs.sessions import Program
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import Deadline, Progress


def session_option(opts: object) -> str | None:
    """Read the options of an operation that takes ``session_id`` and nothing else."""
    options = arguments.options(opts, "opts")
    arguments.only(options, ["session_id"], "option", "opts")
    return arguments.optional_text(options.get("session_id"), "opts.session_id")


def read_call(
    module: object, signature: object, opts: object, *, otherwise: SignatureSpec | None = None
) -> tuple[Stage, CallOptions]:
    """Read a module, its signature (``otherwise`` if there is none) and the options of a call."""
    given = arguments.options(opts, "opts")
    options = execution.read_call_options(given, stages.entries_of(module, given))
    return stages.stage_of_call(module, signature, options.module, otherwise=otherwise), options


def module_request(stage: Stage, values: Mapping[str, Any], options: CallOptions) -> Request:
    """Give the request of one module with its checked inputs; errors as :meth:`Sessions.model_for`."""
    model = _model_of((stage,), options.session_id, options.model)
    module = pipeline.built((stage,))
    if options.demos:
        module = execution.with_demos(module, stage, options.demos)
    return Request(module, (stage,), values, model, options)


def program_request(program: Program, values: Mapping[str, Any], options: CallOptions) -> Request:
    """Give the request of a stored program with its checked inputs; errors as :meth:`Sessions.model_for`."""
    model = _model_of(program.stages, program.session_id, options.model, program.model)
    settings = {**program.settings, **options.settings}
    ignored = []
    if program.neighbours is None:
        given = {"embedder": options.embedder, "vector": options.vector}
        ignored = [
            f"this version takes no {name}; it was ignored" for name, value in given.items() if value is not None
        ]
    with_session = replace(
        options, settings=settings, session_id=program.session_id, warnings=(*options.warnings, *ignored)
    )
    return Request(program.module(), program.stages, values, model, with_session)


def _model_of(
    stages: Sequence[Stage], session_id: str | None, *preferred: LanguageModel | None
) -> LanguageModel | None:
    """Give the model for some stages; ``None``: there is none, and none of them asks one."""
    try:
        return sessions.model_for(session_id, *preferred)
    except OperationError as error:
        if error.kind != "lm_not_configured" or any(stage.asks_model for stage in stages):
            raise
        return None


def program_model(program: Program, options: CallOptions) -> LanguageModel:
    """Give the model that a call of a stored program asks; errors as :meth:`Sessions.model_for`."""
    return sessions.model_for(program.session_id, options.model, program.model)


async def run(
    request: Request,
    deadline: Deadline,
    events: EventStream | None = None,
    *,
    program_id: str | None = None,
    account: ModelAccount | None = None,
) -> dict[str, Any]:
    """Run a request within what is left of its budget, counted for each of its modules, and for its program.

    ``account`` has what was asked of models for it before.
    """
    names = {("modules", stage.entry.name) for outer in request.stages for stage in outer.chain}
    if program_id is not None:
        names.add(("programs", program_id))
    running = [metrics.begin(group, name) for group, name in names]
    progress, account = Progress(), account or ModelAccount()
    kind = None
    try:
        return await execution.run(
            request,
            timeout_s=deadline.left_s(request.options.timeout_ms),
            progress=progress,
            account=account,
            events=events,
        )
    except BaseException as error:
        kind = errors.kind_of(error)
        raise
    finally:
        spending.get().add(account.spent)
        for one in running:
            metrics.end(one, kind=kind, queued_s=progress.queued.waited_s(), spent=account.spent)
