"""Store, list, describe, run and delete programs: ``create_program``, ``execute_program`` and others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES
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
from erlport_bridge.operations.port_state import sessions, stored
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs import execution, models
from erlport_bridge.programs.execution import META, STREAM_OPTIONS, VERSION_OPTION, CallRequest, EventStream
from erlport_bridge.programs.models import ModelAccount, budgets, history
from erlport_bridge.programs.options import Vocabulary
from erlport_bridge.programs.pipelines import learned, misplaced
from erlport_bridge.programs.sessions import SPEC_KEYS, Neighbours, Program, Session, Told, read_program_id
from erlport_bridge.programs.text import arguments, quoted
from erlport_bridge.request import weight
from erlport_bridge.store import ConflictError, terms

_DESCRIBE_OPTIONS: Final = Vocabulary(VERSION_OPTION)
# What stands in the spec of a program, and not among the options beside it.
_IN_SPEC: Final = {
    **misplaced.IN_PROGRAM,
    **{name: f"it belongs to the spec, the first argument: %{{signature: …, {name}: …}}" for name in SPEC_KEYS},
}


@operation
async def create_program(spec: object, opts: object = None) -> dict[str, Any]:
    """Store a program in a session; answer its description, with its id, its session's id and its version."""
    program = await weight.aside(sessions.build_program, spec, session_option(opts, _IN_SPEC))
    await stored.add_program(program)
    return program.describe()


@operation
async def execute_program(
    session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program; ``session_id`` may be ``nil``. Answer the prediction of all its stages together."""
    request = await begin_program_call(opts)
    return await run_program(await find_program(session_id, program_id, request), inputs, request)


@operation
async def stream_program(
    reply_to: object, ref: object, session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program and stream its events, as :func:`stream_module` and :func:`execute_program` do."""
    request = await begin_program_call(opts, STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return await run_program(await find_program(session_id, program_id, request), inputs, request, events)


@operation
async def list_programs(session_id: object = None) -> list[dict[str, Any]]:
    """Answer the programs of a session, or of all sessions."""
    return await stored.programs(arguments.optional_text(session_id, "session_id", ID_BYTES))


@operation
async def describe_program(session_id: object, program_id: object, opts: object = None) -> dict[str, Any]:
    """Answer what a program is and what it has learned; this does not count as a use of its session.

    ``session_id`` may be ``nil``; ``opts``: ``version``.
    """
    named, name = arguments.optional_text(session_id, "session_id", ID_BYTES), read_program_id(program_id)
    version = _DESCRIBE_OPTIONS.read_all(opts)["version"]
    await stored.refresh(named, program_id=name)
    program = sessions.find_program(named, name, version, is_used=False)
    neighbours = program.neighbours and {**program.neighbours.options, "examples": len(program.neighbours.examples)}
    return {
        **await stored.described(program),
        "learned": learned.describe(program.learned or {}),
        "neighbours": neighbours,
        "portable": stored.is_portable(program),
    }


@operation
async def delete_program(session_id: object, program_id: object) -> dict[str, Any]:
    """Delete a program; answer its description."""
    named = arguments.optional_text(session_id, "session_id", ID_BYTES)
    return (await stored.delete_program(named, read_program_id(program_id))).describe()


async def find_program(session_id: object, program_id: object, request: CallRequest) -> Program:
    """Find the program that the arguments and options of a call name; its budget and the session's pay for the call.

    The option ``session_id`` may also be the session of a user, through which a program of another session is called
    that keeps conversations.

    Raises:
        OperationError: As :func:`named_program`.
    """
    program, session = await _found_program(session_id, program_id, request)
    for budget in stored.budgets(program, session):
        budgets.include(budget)
    history.session_id.set(session.id)
    return program


async def _found_program(session_id: object, program_id: object, request: CallRequest) -> tuple[Program, Session]:
    """Return the program of a call, and the session through which it is called."""
    options = request.options
    through, version = options.session_id, options.version
    named, name = arguments.optional_text(session_id, "session_id", ID_BYTES), read_program_id(program_id)
    told = options.conversation or through
    await stored.refresh(named, through, program_id=name, conversation_id=told, left_s=request.left_s())
    if through is not None:
        shared = sessions.find_shared(None if named == through else named, name, version)
        if shared is not None:
            return shared, sessions.find(through)
    program = _named_program(named, name, through, version)
    return program, sessions.find(program.session_id)


async def named_program(
    session_id: object, program_id: object, opts_session_id: str | None, version: int | None
) -> Program:
    """Return a program; its session may be named in the arguments or in the options.

    Raises:
        OperationError: Of kind ``input``: two sessions are named. Otherwise as :meth:`Sessions.find_program`.
    """
    named, name = arguments.optional_text(session_id, "session_id", ID_BYTES), read_program_id(program_id)
    await stored.refresh(named, opts_session_id, program_id=name)
    return _named_program(named, name, opts_session_id, version)


def _named_program(named: str | None, name: str, opts_session_id: str | None, version: int | None) -> Program:
    if named is not None and opts_session_id not in (None, named):
        raise OperationError(
            "input",
            f"expected one session, got {quoted(named)} at session_id "
            f"and {quoted(opts_session_id or '')} at opts.session_id",
            path="opts.session_id",
        )
    return sessions.find_program(named or opts_session_id, name, version)


async def run_program(
    program: Program,
    inputs: object,
    request: CallRequest,
    events: EventStream | None = None,
    *,
    is_told: bool = True,
    index: int = 0,
) -> dict[str, Any]:
    """Check the inputs of a program, run it, and add the turn to its conversation.

    Args:
        program: The program.
        inputs: The inputs as a caller wrote them.
        request: The call.
        events: The stream that is told of the call.
        is_told: The call becomes a turn of its conversation; otherwise it may name one to go on from, and adds nothing.
        index: The place of the call among those of its request.

    Returns:
        The prediction, as a term.
    """
    checked = await weight.aside(execution.read_inputs, program.stages, program.asked, inputs)
    if not program.keeps_history:
        return await _run_told(program, checked, request, events, None)
    key = _turn_key(request, inputs, index) if is_told else None
    # The same call again, while the first one runs, is answered with its prediction.
    whose = request.options.conversation or request.options.session_id
    async with stored.conversations.same_call(program, whose, key, request.left_s()):
        told = await _conversation(program, request, is_told=is_told)
        return await _run_told(program, checked, request, events, told, key=key, is_told=is_told)


async def _run_told(
    program: Program,
    checked: Mapping[str, Any],
    request: CallRequest,
    events: EventStream | None,
    told: Told | None,
    *,
    key: str | None = None,
    is_told: bool = False,
) -> dict[str, Any]:
    """Run a program in its conversation, unless the call has been answered before."""
    if told is not None and (answered := await stored.conversations.answered(program, told, key)) is not None:
        return answered
    turns = told.turns if told else ()
    weight.add(turns)
    values = await weight.aside(program.with_history, checked, turns)
    account, version = ModelAccount(), await with_given(program, request)
    usage: dict[str, Any] = {}
    if program.neighbours is not None:
        version, usage = await _learned_version(version, program.neighbours, values, request, account)
    prepared = program_run(version, values, request)
    prediction = await run(prepared, request, events, program_id=program.id, account=account)
    if usage:
        prediction[META]["usage"] = models.added_usage(prediction[META]["usage"], usage)
    weight.add(prediction)
    if told is not None and is_told:
        turn = await weight.aside(program.turn_of, values, prediction)
        try:
            await stored.conversations.add_turn(program, told, turn, key, prediction)
        except ConflictError:
            # It may have been the same call, in another worker.
            if (answered := await stored.conversations.answered(program, told, key)) is None:
                raise
            return answered
    program.count_call()
    return prediction


def _turn_key(request: CallRequest, inputs: object, index: int) -> str | None:
    """Return what distinguishes a call from every other one, but not from its repetition; ``None``: it has no id."""
    options = request.options
    if stored.store is None:
        return None
    if options.request_id is not None:
        # A name that a caller may give to several calls, whose inputs differ.
        called = [options.request_id, index, inputs]
    elif options.repetition is not None:
        called = [options.repetition, index]
    else:
        return None
    return hashlib.sha256(terms.dumps(called).encode()).hexdigest()


async def _conversation(program: Program, request: CallRequest, *, is_told: bool) -> Told | None:
    """Return the conversation of a call: the one that is named, or that of the session through which it comes.

    Raises:
        OperationError: Of kind ``input``: the call does not say whose conversation it is.
    """
    options = request.options
    if not is_told:
        if options.conversation is None:
            return None
        found = sessions.conversations.find(program.id, options.conversation)
        return Told(found, tuple(found.turns()))
    conversation_id = options.conversation or options.session_id
    if conversation_id is None:
        message = "the program keeps conversations (history: true), and the call does not say whose this is; write "
        message += 'conversation: "user-42" among the options of the call, or session_id: the session of the user'
        raise OperationError("input", message, path="opts.conversation")
    through = None if options.session_id == program.session_id else options.session_id
    return await stored.conversations.open(program, conversation_id, through, request.left_s())


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
