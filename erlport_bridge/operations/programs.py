"""Store, list, describe, run and delete programs: ``create_program``, ``execute_program`` and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.operations.calls import (
    begin_program_call,
    program_model,
    program_run,
    run,
    session_option,
    stream_of,
    with_given,
)
from erlport_bridge.operations.operation import operation, spending
from erlport_bridge.operations.port_state import sessions
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import META, STREAM_OPTIONS, VERSION_OPTION, CallRequest, EventStream
from erlport_bridge.programs.models import ModelAccount
from erlport_bridge.programs.options import Vocabulary
from erlport_bridge.programs.pipelines import learned
from erlport_bridge.programs.sessions import Conversation, Neighbours, Program
from erlport_bridge.programs.text import arguments, quoted

_DESCRIBE_OPTIONS: Final = Vocabulary(VERSION_OPTION)


@operation
async def create_program(spec: object, opts: object = None) -> dict[str, Any]:
    """Store a program in a session; answer its description, with its id, its session's id and its version."""
    return sessions.add_program(spec, session_option(opts)).describe()


@operation
async def execute_program(
    session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program; ``session_id`` may be ``nil``. Answer the prediction of all its stages together."""
    request = begin_program_call(opts)
    return await run_program(find_program(session_id, program_id, request), inputs, request)


@operation
async def stream_program(
    reply_to: object, ref: object, session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program and stream its events, as :func:`stream_module` and :func:`execute_program` do."""
    request = begin_program_call(opts, STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return await run_program(find_program(session_id, program_id, request), inputs, request, events)


@operation
async def list_programs(session_id: object = None) -> list[dict[str, Any]]:
    """Answer the programs of a session, or of all sessions."""
    wanted = arguments.optional_text(session_id, "session_id")
    found = [sessions.find(wanted)] if wanted is not None else sessions.all()
    return [program.describe() for session in found for program in session.programs.values()]


@operation
async def describe_program(session_id: object, program_id: object, opts: object = None) -> dict[str, Any]:
    """Answer what a program is and what it has learned; this does not count as a use of its session.

    ``session_id`` may be ``nil``; ``opts``: ``version``.
    """
    program = sessions.find_program(
        arguments.optional_text(session_id, "session_id"),
        arguments.text(program_id, "program_id"),
        _DESCRIBE_OPTIONS.read_all(opts)["version"],
        is_used=False,
    )
    neighbours = program.neighbours and {**program.neighbours.options, "examples": len(program.neighbours.examples)}
    return {**program.describe(), "learned": learned.describe(program.learned or {}), "neighbours": neighbours}


@operation
async def delete_program(session_id: object, program_id: object) -> dict[str, Any]:
    """Delete a program; answer its description."""
    return sessions.delete_program(
        arguments.optional_text(session_id, "session_id"), arguments.text(program_id, "program_id")
    ).describe()


def find_program(session_id: object, program_id: object, request: CallRequest) -> Program:
    """Find the program that the arguments and options of a call name.

    The option ``session_id`` may also be the session of a user, through which a program of another session is called
    that keeps conversations.

    Raises:
        OperationError: As :func:`named_program`.
    """
    through, version = request.options.session_id, request.options.version
    if through is not None:
        named = arguments.optional_text(session_id, "session_id")
        shared = sessions.find_shared(None if named == through else named, _program_id(program_id), version)
        if shared is not None:
            sessions.find(through)
            return shared
    return named_program(session_id, program_id, through, version)


def named_program(session_id: object, program_id: object, opts_session_id: str | None, version: int | None) -> Program:
    """Return a program; its session may be named in the arguments or in the options.

    Raises:
        OperationError: Of kind ``input``: two sessions are named. Otherwise as :meth:`Sessions.find_program`.
    """
    named = arguments.optional_text(session_id, "session_id")
    if named is not None and opts_session_id not in (None, named):
        raise OperationError(
            "input",
            f"expected one session, got {quoted(named)} at session_id "
            f"and {quoted(opts_session_id or '')} at opts.session_id",
            path="opts.session_id",
        )
    return sessions.find_program(named or opts_session_id, _program_id(program_id), version)


async def run_program(
    program: Program,
    inputs: object,
    request: CallRequest,
    events: EventStream | None = None,
    *,
    is_told: bool = True,
) -> dict[str, Any]:
    """Check the inputs of a program, run it, and add the turn to its conversation.

    Args:
        program: The program.
        inputs: The inputs as a caller wrote them.
        request: The call.
        events: The stream that is told of the call.
        is_told: The call becomes a turn of its conversation; otherwise it may name one to go on from, and adds nothing.

    Returns:
        The prediction, as a term.
    """
    checked = execution.read_inputs(program.stages, program.asked, inputs)
    told = _conversation(program, request, is_told=is_told) if program.keeps_history else None
    values = program.with_history(checked, told.turns() if told else ())
    account, version = ModelAccount(), with_given(program, request)
    usage: dict[str, Any] = {}
    if program.neighbours is not None:
        version, usage = await _learned_version(version, program.neighbours, values, request, account)
    prepared = program_run(version, values, request)
    prediction = await run(prepared, request, events, program_id=program.id, account=account)
    if usage:
        prediction[META]["usage"] = execution.added_usage(prediction[META]["usage"], usage)
    program.record(values, prediction, told if is_told else None)
    return prediction


def _conversation(program: Program, request: CallRequest, *, is_told: bool) -> Conversation | None:
    """Return the conversation of a call: the one that is named, or that of the session through which it comes.

    Raises:
        OperationError: Of kind ``input``: the call does not say whose conversation it is.
    """
    options = request.options
    if not is_told:
        return None if options.conversation is None else sessions.conversations.find(program.id, options.conversation)
    conversation_id = options.conversation or options.session_id
    if conversation_id is None:
        message = "the program keeps conversations (history: true), and the call does not say whose this is; write "
        message += 'conversation: "user-42" among the options of the call, or session_id: the session of the user'
        raise OperationError("input", message, path="opts.conversation")
    through = None if options.session_id == program.session_id else options.session_id
    return sessions.conversations.opened(program.id, conversation_id, through)


def _program_id(program_id: object) -> str:
    return arguments.text(program_id, "program_id")


async def _learned_version(
    program: Program,
    neighbours: Neighbours,
    values: Mapping[str, Any],
    request: CallRequest,
    account: ModelAccount,
) -> tuple[Program, dict[str, Any]]:
    """Return the program with what it learned for one call, and the usage of that learning, by model."""
    try:
        knows, usage = await nearest.learned_for(
            program,
            neighbours,
            values,
            program_model(program, request),
            request.options,
            timeout_s=request.left_s(),
            account=account,
        )
    except BaseException:
        spending.get().add(account.spent)
        raise
    return program.with_learned(knows), usage
