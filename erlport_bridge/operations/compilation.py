"""Improve stored programs by examples, with DSPy's optimizers: ``compile_program`` and its variants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.operations.calls import program_model, stream_of, with_given
from erlport_bridge.operations.operation import operation, spending
from erlport_bridge.operations.port_state import sessions, stored
from erlport_bridge.operations.programs import find_program
from erlport_bridge.optimizing import compiling, nearest, optimizers
from erlport_bridge.optimizing.compiling import Compilation
from erlport_bridge.optimizing.optimizers import OptimizerEntry
from erlport_bridge.programs.execution import (
    STREAM_OPTIONS,
    CallRequest,
    EventStream,
    check_spelling,
    read_many_calls,
    read_metric,
)
from erlport_bridge.programs.models import LanguageModel, ModelAccount
from erlport_bridge.programs.options import Vocabulary
from erlport_bridge.programs.pipelines import Learned, named_tools, voting
from erlport_bridge.programs.sessions import Neighbours, Program, check_changeable, stored_form
from erlport_bridge.programs.values import plain
from erlport_bridge.request import weight
from erlport_bridge.store import terms


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
    optimizer's report under ``compiled``. If the program was deleted meanwhile, or its session closed, the version is
    not stored; the report has it as text then, under ``dump``.
    """
    return await _compile(session_id, program_id, trainset, await _begin(opts, compiling.COMPILE_OPTIONS))


@operation
async def stream_compile(
    reply_to: object, ref: object, session_id: object, program_id: object, trainset: object, opts: object = None
) -> dict[str, Any]:
    """Compile a program as ``compile_program`` does, and send each score and each candidate while it runs."""
    request = await _begin(opts, compiling.COMPILE_OPTIONS | STREAM_OPTIONS)
    with stream_of(request, reply_to, ref) as events:
        return await _compile(session_id, program_id, trainset, request, events)


async def _begin(opts: object, own: Vocabulary) -> CallRequest:
    """Read the options of a compilation and of the optimizer that they name; an unknown option is an error."""

    def with_optimizer(given: Mapping[str, Any]) -> tuple[str, Vocabulary]:
        if given.get("optimizer") is None:
            # Its own options are not known without it, but this one may be what a misspelt name means: "optimiser".
            check_spelling(given, own)
        entry = optimizers.find_entry(given.get("optimizer"), "opts.optimizer")
        return entry.name, own | entry.vocabulary

    request = await weight.aside(read_many_calls, opts, with_optimizer)
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
    found = await find_program(session_id, program_id, request)
    check_changeable(found.session_id, "program_id")
    program = await with_given(found, request)
    if entry.least_examples and voting.count_members(program.learned or {}):
        message = f"version {program.version} has others vote; compile one of those, by the option version"
        raise OperationError("input", message, path="opts.version")
    if valset is not None and not entry.takes_valset:
        message = f"{entry.name} takes no valset; give all examples as the trainset"
        raise OperationError("input", message, path="opts.valset")
    if metric is None and entry.needs_metric:
        metric = read_metric(None, "opts.metric")
    ignored = _ignored(entry, own, trainset, is_strict=request.options.strict)
    least = 1 if valset is not None else entry.least_examples
    compilation = Compilation(
        program,
        entry,
        chosen,
        await weight.aside(partial(compiling.read_examples, trainset, program, "trainset", least=least)),
        None if valset is None else await weight.aside(compiling.read_examples, valset, program, "opts.valset"),
        None if metric is None else metric.of(program.asked, program.prediction_fields),
        own["num_threads"],
        own["max_errors"],
        {number: version for number, version in sessions.versions(found).items() if version.neighbours is None},
    )
    await weight.aside(compilation.check_compared)
    if entry.at_each_call:
        neighbours, report = await nearest.remember(compilation, metric)
        return await _stored(found, program.learned or {}, _completed(report, request, ignored), neighbours)
    model = program_model(program, request)
    key = await weight.aside(_compilation_key, found, model, trainset, request)

    async def tell(event: Mapping[str, Any]) -> None:
        if events is not None:
            await events.send(event)

    async with stored.compilation(found, key, request.left_s()) as before:
        if isinstance(before, Program):
            return before.describe()
        sessions.check_room()
        account = ModelAccount()
        try:
            knows, report = await compiling.run(
                compilation, model, request.options, timeout_s=request.left_s(), account=account, tell=tell, kept=before
            )
        finally:
            spending.get().add(account.spent)
        return await _stored(found, knows, _completed(report, request, ignored), compilation=key)


def _compilation_key(program: Program, model: LanguageModel, trainset: object, request: CallRequest) -> str | None:
    """Return what distinguishes a compilation from every other one, but not from its repetition.

    ``None``: it has no ``request_id``, or there is no store. Functions of Elixir (a metric, tools, a model) are others
    in each call, and do not count; nor do keys and addresses of models.
    """
    options, own = request.options, request.own
    if stored.store is None or options.request_id is None:
        return None
    told = [
        *(options.request_id, options.version, program.id, trainset, own.get("valset")),
        {name: value for name, value in sorted(own.items()) if isinstance(value, str | int | float)},
        None if own.get("metric") is None else own["metric"].written,
        [model.model, *model.fallbacks],
        dict(sorted(options.settings.items())),
    ]
    return hashlib.sha256(terms.dumps(plain(told)).encode()).hexdigest()


async def _stored(
    program: Program,
    knows: Learned,
    report: Mapping[str, Any],
    neighbours: Neighbours | None = None,
    *,
    compilation: str | None = None,
) -> dict[str, Any]:
    """Store the new version of a program and return its description.

    What was learned has been paid for. So where it cannot be stored, because the program was deleted meanwhile, the
    report has a warning and the version as text, which ``load_program`` takes.
    """
    try:
        return (await stored.add_version(program, knows, report, neighbours, compilation=compilation)).describe()
    except OperationError as error:
        warning = f"the new version is not stored: {error.message}; load_program keeps it, from the text at dump"
        report = {**report, "warnings": [*report["warnings"], warning]}
        unstored = program.next_version(program.version + 1, knows, report, neighbours)
        return {**unstored.describe(), "compiled": {**report, "dump": stored_form.dump(unstored)}}


def _ignored(entry: OptimizerEntry, own: Mapping[str, Any], trainset: object, *, is_strict: bool) -> list[str]:
    """Return a warning for each part of the call that the optimizer has no use for.

    Raises:
        OperationError: Of kind ``input``: there is one, and the call is strict.
    """
    found = []
    if own["metric"] is not None and not entry.uses_metric:
        found.append(("opts.metric", f"{entry.name} takes no metric", "it was ignored"))
    if trainset and not entry.least_examples:
        found.append(("trainset", f"{entry.name} takes no examples", "the trainset was ignored"))
    if found and is_strict:
        path, problem, _ = found[0]
        raise OperationError("input", f"{problem}, and the call is strict", path=path)
    return [f"{problem}; {done}" for _, problem, done in found]


def _completed(report: Mapping[str, Any], request: CallRequest, ignored: Sequence[str]) -> dict[str, Any]:
    """Return the report of a compilation with what was ignored, and the tools with which the program has learned.

    A call of the new version must bring the tools, by their names, too, so that it is no agent without its tools.
    """
    warnings = [*ignored, *report["warnings"]]
    return {**report, "warnings": warnings, "tools": named_tools(request.options.tools)}
