"""Programs that are kept in a session, and their runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.operations.calls import program_model, program_request, run, session_option
from erlport_bridge.operations.operation import operation, spending
from erlport_bridge.operations.port_state import sessions
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import CallOptions, EventStream, streaming
from erlport_bridge.programs.models import ModelAccount
from erlport_bridge.programs.pipelines import learned
from erlport_bridge.programs.sessions import Neighbours, Program
from erlport_bridge.programs.text import arguments, quoted
from erlport_bridge.request import Deadline


@operation
async def create_program(spec: object, opts: object = None) -> dict[str, Any]:
    """Store a program in a session; answers its id, its session's id and its version."""
    return sessions.add_program(spec, session_option(opts)).describe()


@operation
async def execute_program(
    session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program; ``session_id`` may be ``nil``. Answers the prediction of all its stages together."""
    return await _execute_program(session_id, program_id, inputs, arguments.options(opts, "opts"))


@operation
async def stream_program(
    reply_to: object, ref: object, session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program and tell of it meanwhile; see :func:`stream_module` and :func:`execute_program`."""
    given = arguments.options(opts, "opts")
    with streaming.opened(reply_to, ref, given.pop("buffer", None)) as events:
        return await _execute_program(session_id, program_id, inputs, given, events)


@operation
async def list_programs(session_id: object = None) -> list[dict[str, Any]]:
    """Answer the programs of a session, or of all sessions."""
    wanted = arguments.optional_text(session_id, "session_id")
    found = [sessions.find(wanted)] if wanted is not None else sessions.all()
    return [program.describe() for session in found for program in session.programs.values()]


@operation
async def describe_program(session_id: object, program_id: object, opts: object = None) -> dict[str, Any]:
    """Answer what a program is and what it has learned, which does not count as using its session.

    ``session_id`` may be ``nil``; ``opts``: ``version``.
    """
    given = arguments.options(opts, "opts")
    arguments.only(given, ["version"], "option", "opts")
    program = sessions.find_program(
        arguments.optional_text(session_id, "session_id"),
        arguments.text(program_id, "program_id"),
        arguments.version(given.get("version")),
        is_used=False,
    )
    neighbours = program.neighbours and {**program.neighbours.options, "examples": len(program.neighbours.examples)}
    return {**program.describe(), "learned": learned.describe(program.learned or {}), "neighbours": neighbours}


@operation
async def delete_program(session_id: object, program_id: object) -> dict[str, Any]:
    """Forget a program; answers what it was."""
    return sessions.delete_program(
        arguments.optional_text(session_id, "session_id"), arguments.text(program_id, "program_id")
    ).describe()


def find_program(session_id: object, program_id: object, options: CallOptions) -> Program:
    """Find the program that the arguments of a call name.

    Raises:
        OperationError: Of kind ``input`` if the session that is named is not that of the options; else as
            :meth:`Sessions.find_program`.
    """
    named = arguments.optional_text(session_id, "session_id")
    if named is not None and options.session_id not in (None, named):
        raise OperationError(
            "input",
            f"expected one session, got {quoted(named)} at session_id "
            f"and {quoted(options.session_id)} at opts.session_id",
            path="opts.session_id",
        )
    found_in = named or options.session_id
    return sessions.find_program(found_in, arguments.text(program_id, "program_id"), options.version)


async def run_program(
    program: Program, inputs: object, options: CallOptions, deadline: Deadline, events: EventStream | None = None
) -> dict[str, Any]:
    """Check the inputs of a program, run it and note the turn of its conversation; gives the prediction."""
    values = program.with_history(execution.read_inputs(program.stages, program.asked, inputs))
    account, taught = ModelAccount(), program
    usage: dict[str, Any] = {}
    if program.neighbours is not None:
        taught, usage = await _taught(program, program.neighbours, values, options, deadline, account)
    request = program_request(taught, values, options)
    prediction = await run(request, deadline, events, program_id=program.id, account=account)
    if usage:
        prediction[execution.META]["usage"] = execution.added_usage(prediction[execution.META]["usage"], usage)
    program.record(values, prediction)
    return prediction


async def _taught(
    program: Program,
    neighbours: Neighbours,
    values: Mapping[str, Any],
    options: CallOptions,
    deadline: Deadline,
    account: ModelAccount,
) -> tuple[Program, dict[str, Any]]:
    """Give the program as it is for one call, and what it took to teach it, by model."""
    try:
        knows, usage = await nearest.learned_for(
            program,
            neighbours,
            values,
            program_model(program, options),
            options,
            timeout_s=deadline.left_s(options.timeout_ms),
            account=account,
        )
    except BaseException:
        spending.get().add(account.spent)
        raise
    return program.with_learned(knows), usage


async def _execute_program(
    session_id: object, program_id: object, inputs: object, opts: object, events: EventStream | None = None
) -> dict[str, Any]:
    deadline = Deadline()
    options = execution.read_call_options(opts)
    return await run_program(find_program(session_id, program_id, options), inputs, options, deadline, events)
