"""Stored programs, improved by examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.operations.calls import program_model
from erlport_bridge.operations.operation import operation, spending
from erlport_bridge.operations.port_state import sessions
from erlport_bridge.operations.programs import find_program
from erlport_bridge.optimizing import compiling, nearest, optimizers
from erlport_bridge.optimizing.compiling import Compilation
from erlport_bridge.programs import execution
from erlport_bridge.programs.execution import EventStream, read_metric, streaming
from erlport_bridge.programs.models import ModelAccount
from erlport_bridge.programs.pipelines import voting
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import Deadline


@operation
def list_optimizers() -> list[str]:
    """Answer the names of the optimizers that can compile a program."""
    return list(optimizers.ENTRIES)


@operation
def describe_optimizer(name: object) -> dict[str, Any]:
    """Answer what an optimizer does and takes, and whether all that it needs is installed."""
    return optimizers.find_entry(name, "name").describe()


@operation
async def compile_program(
    session_id: object, program_id: object, trainset: object, opts: object = None
) -> dict[str, Any]:
    """Have an optimizer (the option ``optimizer``) improve a stored program by examples.

    Answers the description of the new version, with what was done under ``compiled``. The version before stays.
    """
    return await _compile(session_id, program_id, trainset, arguments.options(opts, "opts"))


@operation
async def stream_compile(
    reply_to: object, ref: object, session_id: object, program_id: object, trainset: object, opts: object = None
) -> dict[str, Any]:
    """Compile a program as ``compile_program`` does, and tell of each score and each candidate."""
    given = arguments.options(opts, "opts")
    with streaming.opened(reply_to, ref, given.pop("buffer", None)) as events:
        return await _compile(session_id, program_id, trainset, given, events)


async def _compile(
    session_id: object, program_id: object, trainset: object, given: dict[str, Any], events: EventStream | None = None
) -> dict[str, Any]:
    deadline = Deadline()
    entry = optimizers.find_entry(given.pop("optimizer", None), "opts.optimizer")
    own = {option.name for option in entry.options}
    metric, valset = given.pop("metric", None), given.pop("valset", None)
    num_threads, max_errors = (compiling.read_number(given, name) for name in ("num_threads", "max_errors"))
    call = {name: given.pop(name) for name in list(given) if name in execution.SHARED_OPTIONS - own}
    options = execution.read_call_options(call)
    chosen = entry.read_options(given, "opts")
    entry.check_packages()
    program = find_program(session_id, program_id, options)
    if entry.least_examples and voting.count_members(program.learned or {}):
        message = f"version {program.version} has others vote; compile one of those, by the option version"
        raise OperationError("input", message, path="opts.version")
    if valset is not None and not entry.takes_valset:
        message = f"{entry.name} takes no valset; give all examples as the trainset"
        raise OperationError("input", message, path="opts.valset")
    compilation = Compilation(
        program,
        entry,
        chosen,
        compiling.read_examples(trainset, program, "trainset", least=1 if valset is not None else entry.least_examples),
        None if valset is None else compiling.read_examples(valset, program, "opts.valset"),
        None if metric is None and not entry.needs_metric else read_metric(metric, "opts.metric", program.asked),
        num_threads,
        max_errors,
        {number: version for number, version in sessions.versions(program).items() if version.neighbours is None},
    )
    if entry.at_each_call:
        neighbours, report = await nearest.remember(compilation, metric)
        return sessions.add_version(program, program.learned or {}, report, neighbours).describe()
    model = program_model(program, options)

    async def tell(event: Mapping[str, Any]) -> None:
        if events is not None:
            await events.send(event)

    account = ModelAccount()
    try:
        knows, report = await compiling.run(
            compilation, model, options, timeout_s=deadline.left_s(options.timeout_ms), account=account, tell=tell
        )
    finally:
        spending.get().add(account.spent)
    return sessions.add_version(program, knows, report).describe()
