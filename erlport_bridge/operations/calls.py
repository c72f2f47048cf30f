"""Read the arguments of a call and run it: the steps that all executing operations share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from erlport_bridge import errors
from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES
from erlport_bridge.operations.operation import spending
from erlport_bridge.operations.port_state import metrics, sessions, stored
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import (
    META,
    STREAM_OPTIONS,
    CallOptions,
    CallRequest,
    EventStream,
    ModuleCallRequest,
    PreparedRun,
    read_module_call,
    read_program_call,
    streaming,
)
from erlport_bridge.programs.models import LanguageModel, ModelAccount, budgets
from erlport_bridge.programs.options import NO_OPTIONS, TextOption, Vocabulary
from erlport_bridge.programs.pipelines import Stage, pipeline
from erlport_bridge.programs.sessions import Program
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import Progress, weight

# What a program needs for an option to have an effect.
_REMEDIES: Final = {"conversation": ", and no turn is kept: create the program with history: true"}
#: The option of operations that work on one session.
SESSION_OPTION: Final = TextOption(name="session_id", limit=ID_BYTES, description="the session")
_SESSION_ONLY: Final = Vocabulary(SESSION_OPTION)


def session_option(opts: object, hints: Mapping[str, str] = arguments.NO_HINTS) -> str | None:
    """Return the session that the options name; an option other than ``session_id`` is an error, with its hint."""
    session_id: str | None = _SESSION_ONLY.read_all(opts, hints=hints)["session_id"]
    return session_id


async def begin_module_call(
    module: object,
    signature: object,
    opts: object,
    own: Vocabulary = NO_OPTIONS,
    *,
    otherwise: SignatureSpec | None = None,
) -> ModuleCallRequest:
    """Read a module call and make it the running request; raise errors as :func:`read_module_call`."""
    request = await weight.aside(partial(read_module_call, module, signature, opts, own, otherwise=otherwise))
    request.begin()
    return request


async def begin_program_call(opts: object, own: Vocabulary = NO_OPTIONS) -> CallRequest:
    """Read a stored program's call and make it the running request; raise errors as :func:`read_program_call`."""
    request = await weight.aside(read_program_call, opts, own)
    request.begin()
    return request


def stream_of(request: CallRequest, reply_to: object, ref: object) -> contextlib.AbstractContextManager[EventStream]:
    """Open the event stream of a request that was read with :data:`STREAM_OPTIONS`."""
    return streaming.opened(reply_to, ref, STREAM_OPTIONS.with_defaults(request.own)["buffer"])


async def module_run(request: ModuleCallRequest, inputs: object) -> PreparedRun:
    """Return the run of one module; raise errors as :func:`execution.read_inputs` and :meth:`Sessions.model_for`."""
    values = await weight.aside(execution.read_inputs, (request.stage,), request.stage.spec, inputs)
    return await module_template(request, values)


async def module_template(request: ModuleCallRequest, values: Mapping[str, Any] | None = None) -> PreparedRun:
    """Return the run of one module, with checked inputs if there are any; raise as :meth:`Sessions.model_for`."""
    stage, options = request.stage, request.options
    if options.session_id is not None:
        await stored.refresh(options.session_id, left_s=request.left_s())
    model = _model_of((stage,), options.session_id, options.model)
    if options.session_id is not None:
        for budget in stored.budgets(None, sessions.find(options.session_id)):
            budgets.include(budget)
    module = await weight.aside(pipeline.built, (stage,))
    if options.demos:
        module = await weight.aside(execution.with_demos, module, stage, options.demos)
    return PreparedRun(module, (stage,), values or {}, model, options)


def program_run(program: Program, values: Mapping[str, Any], request: CallRequest) -> PreparedRun:
    """Return the run of a stored program with checked inputs; raise errors as :meth:`Sessions.model_for`."""
    options = request.options
    model = _model_of(program.stages, program.session_id, *_preferred(program, options))
    needed = program.needs.taken
    if program.neighbours is not None:
        needed.add("embedder")
    names = [name for name in options.functions if name not in needed]
    if program.neighbours is None and options.vector is not None:
        names.append("vector")
    if not program.keeps_history and options.conversation is not None:
        names.append("conversation")
    if names and options.strict:
        message = f"this version takes no {names[0]}, and the call is strict"
        raise OperationError("input", message, path=f"opts.{names[0]}")
    ignored = [f"this version takes no {name}; it was ignored{_REMEDIES.get(name, '')}" for name in names]
    of_program = replace(
        options,
        settings={**program.settings, **options.settings},
        session_id=program.session_id,
        warnings=(*options.warnings, *ignored),
    )
    own = program.own_models(options.settings)
    return PreparedRun(program.module(), program.stages, values, model, of_program, own)


async def with_given(program: Program, request: CallRequest) -> Program:
    """Return a stored program with the tools of a call, and have its functions be those of the call.

    Raises:
        OperationError: As :meth:`Program.with_given`. Of kind ``timeout``: Elixir did not find the exported functions
            in time.
    """
    finding = asyncio.ensure_future(program.with_given(request.options.tools, request.functions))
    try:
        # Not `wait_for`, which before Python 3.12 forgets that the call is cancelled if this is done at that moment.
        await asyncio.wait({finding}, timeout=request.left_s())
        if not finding.done():
            message = "the functions that the program names were not found within the time of the call"
            raise OperationError("timeout", message, stage="tools")
        found = finding.result()
    finally:
        finding.cancel()
    request.bind(program.needs.bound(request.functions))
    return found


def program_model(program: Program, request: CallRequest) -> LanguageModel:
    """Return the model that a stored program's call uses; raise errors as :meth:`Sessions.model_for`."""
    return sessions.model_for(program.session_id, *_preferred(program, request.options))


def _preferred(program: Program, options: CallOptions) -> list[LanguageModel | None]:
    """Return what goes before the model of the program's session; through another session, that session's model."""
    preferred = [options.model, program.model]
    if options.session_id not in (None, program.session_id):
        preferred.append(sessions.find(str(options.session_id)).model)
    return preferred


async def run(
    prepared: PreparedRun,
    request: CallRequest,
    events: EventStream | None = None,
    *,
    program_id: str | None = None,
    account: ModelAccount | None = None,
) -> dict[str, Any]:
    """Run a module or program within what is left of its budget; count it for each of its modules and for the program.

    ``account`` already contains the model requests that were made for this call before the run.
    """
    names = {("modules", stage.entry.name) for outer in prepared.stages for stage in outer.chain}
    if program_id is not None:
        names.add(("programs", program_id))
    running = [metrics.begin(group, name) for group, name in names]
    progress, account = Progress(), account or ModelAccount()
    kind = None
    try:
        prediction = await execution.run(
            prepared, timeout_s=request.left_s(), progress=progress, account=account, events=events
        )
    except BaseException as error:
        kind = errors.kind_of(error)
        raise
    finally:
        spending.get().add(account.spent)
        for entry in running:
            metrics.end(entry, kind=kind, queued_s=progress.queued.waited_s(), spent=account.spent)
    if stored.was_rehydrated():
        prediction[META]["rehydrated"] = True
    return prediction


def _model_of(
    stages: Sequence[Stage], session_id: str | None, *preferred: LanguageModel | None
) -> LanguageModel | None:
    """Return the model for some stages; ``None`` if none is configured and no stage calls one."""
    try:
        return sessions.model_for(session_id, *preferred)
    except OperationError as error:
        if error.kind != "lm_not_configured" or any(stage.needs_model for stage in stages):
            raise
        return None
