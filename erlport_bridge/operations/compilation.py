"""Improve stored programs by examples, with DSPy's optimizers: ``compile_program`` and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.operations.calls import program_model, stream_of, with_given
from erlport_bridge.operations.operation import operation, spending
from erlport_bridge.operations.port_state import sessions
from erlport_bridge.operations.programs import find_program
from erlport_bridge.optimizing import compiling, nearest, optimizers
from erlport_bridge.optimizing.compiling import Compilation
from erlport_bridge.programs.execution import STREAM_OPTIONS, CallRequest, EventStream, read_many_calls, read_metric
from erlport_bridge.programs.models import ModelAccount
from erlport_bridge.programs.options import Vocabulary
from erlport_bridge.programs.pipelines import voting


@operation
def list_optimizers() -> list[str]:
    """Answer the names of the optimizers that can compile a program."""
    return list(optimizers.ENTRIES)


@operation
def describe_optimizer(name: object) -> dict[str, Any]:
    """Answer what an optimizer does, its options, and whether the packages that it needs are installed."""
    return optimizers.find_entry(name, "name").describe()


@operation
async def compile_program(
    session_id: object, program_id: object, trainset: object, opts: object = None
) -> dict[str, Any]:
    """Improve a stored program by examples, with the optimizer that the option ``optimizer`` names.

    Adds a new version of the program; the old one stays. Answers the description of the new version, with the
    optimizer's report under ``compiled``.
    """
    return await _compile(session_id, program_id, trainset, _begin(opts, compiling.COMPILE_OPTIONS))


@operation
async def stream_compile(
    reply_to: object, ref: object, session_id: object, program_id: object, trainset: object, opts: object = None
) -> dict[str, Any]:
    """Compile a program as ``compile_program`` does, and send each score and each candidate while it runs."""
    request = _begin(opts, compiling.COMPILE_OPTIONS | STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return await _compile(session_id, program_id, trainset, request, events)


def _begin(opts: object, own: Vocabulary) -> CallRequest:
    """Read the options of a compilation and of the optimizer that they name; an unknown option is an error."""

    def with_optimizer(given: Mapping[str, Any]) -> tuple[str, Vocabulary]:
        entry = optimizers.find_entry(given.get("optimizer"), "opts.optimizer")
        return entry.name, own | entry.vocabulary

    request = read_many_calls(opts, with_optimizer)
    request.begin()
    return request


async def _compile(
    session_id: object, program_id: object, trainset: object, request: CallRequest, events: EventStream | None = None
) -> dict[str, Any]:
    own = compiling.COMPILE_OPTIONS.with_defaults(request.own)
    entry = optimizers.find_entry(own["optimizer"], "opts.optimizer")
    chosen = entry.complete(request.own, "opts")
    metric, valset = own["metric"], own["valset"]
    entry.check_packages()
    stored = find_program(session_id, program_id, request)
    program = with_given(stored, request)
    if entry.least_examples and voting.count_members(program.learned or {}):
        message = f"version {program.version} has others vote; compile one of those, by the option version"
        raise OperationError("input", message, path="opts.version")
    if valset is not None and not entry.takes_valset:
        message = f"{entry.name} takes no valset; give all examples as the trainset"
        raise OperationError("input", message, path="opts.valset")
    if metric is None and entry.needs_metric:
        metric = read_metric(None, "opts.metric")
    compilation = Compilation(
        program,
        entry,
        chosen,
        compiling.read_examples(trainset, program, "trainset", least=1 if valset is not None else entry.least_examples),
        None if valset is None else compiling.read_examples(valset, program, "opts.valset"),
        None if metric is None else metric.of(program.asked),
        own["num_threads"],
        own["max_errors"],
        {number: version for number, version in sessions.versions(stored).items() if version.neighbours is None},
    )
    if entry.at_each_call:
        neighbours, report = await nearest.remember(compilation, metric)
        return sessions.add_version(stored, program.learned or {}, _with_tools(report, request), neighbours).describe()
    model = program_model(program, request)

    async def tell(event: Mapping[str, Any]) -> None:
        if events is not None:
            await events.send(event)

    account = ModelAccount()
    try:
        knows, report = await compiling.run(
            compilation, model, request.options, timeout_s=request.left_s(), account=account, tell=tell
        )
    finally:
        spending.get().add(account.spent)
    return sessions.add_version(stored, knows, _with_tools(report, request)).describe()


def _with_tools(report: Mapping[str, Any], request: CallRequest) -> dict[str, Any]:
    """Return the report of a compilation with the names of the tools with which the program has learned.

    A call of the new version must bring them too, so that it is no agent without its tools.
    """
    names = [tool if isinstance(tool, str) else tool.name for tool in request.options.tools]
    return {**report, "tools": names}
