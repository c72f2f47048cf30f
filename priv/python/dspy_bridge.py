"""The operations that Elixir calls, by name.

Each answers ``{:ok, term}`` or ``{:error, {:python_exception, details}}`` and never raises across the port. Arguments
are positional; the last is a map of options that may be left out. Under ``python -m erlport_bridge`` the operations
run side by side; imported by ErlPort's own Python half they run one at a time, with the same results.

This module offers :data:`OPERATIONS` and nothing else. The messages of errors and the shapes of results are described
in ``docs/operations.md``.
"""

from __future__ import annotations

import functools
import inspect
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dspy

import erlport_bridge
from erlport_bridge import errors, request, threads
from erlport_bridge.errors import EncodeError, OperationError
from erlport_bridge.port import event_loop, runtime, stock
from erlport_bridge.programs import (
    arguments,
    batch,
    catalogue,
    elixir_model,
    evaluating,
    execution,
    models,
    pipeline,
    sandbox,
    shortcuts,
    stages,
    streaming,
    tools,
)
from erlport_bridge.programs.batch import BatchOptions
from erlport_bridge.programs.execution import CallOptions, Request
from erlport_bridge.programs.metrics import Metrics
from erlport_bridge.programs.sessions import Program, Sessions
from erlport_bridge.programs.signatures import SignatureSpec, parse_signature
from erlport_bridge.programs.stages import SignatureSource, Stage
from erlport_bridge.programs.streaming import EventStream
from erlport_bridge.programs.text import quoted, suggestion
from erlport_bridge.request import Deadline
from erlport_bridge.term import IMPLEMENTATION, Atom

Operation = Callable[..., Awaitable[tuple[Atom, Any]] | tuple[Atom, Any]]

#: Every operation by name.
OPERATIONS: dict[str, Operation] = {}

_OK = Atom("ok")
_ERROR = Atom("error")
_PYTHON_EXCEPTION = Atom("python_exception")

# Stands in where a module is checked without one.
_ANY_SIGNATURE = parse_signature("input -> output")

# The operations that call the others.
_BY_NAME = frozenset(["handle", "handle_json"])

_sessions = Sessions.from_environment()
_metrics = Metrics()

runtime.before_exit(sandbox.kill_all)
shortcuts.install()
# Preparing a request and looking up its price: 20 us each, or what a cache on the disk takes. They wait for nobody.
event_loop.run_in_place("dspy.clients.execution", "dspy.clients.capabilities")


def _failure_term(error: BaseException) -> tuple[Atom, tuple[Atom, dict[str, Any]]]:
    """Give what an operation answers for an exception."""
    if isinstance(error, EncodeError):
        # The path within the result, not within {:ok, result}.
        error = EncodeError(error.reason, error.path.removeprefix("[1]"))
    return _ERROR, (_PYTHON_EXCEPTION, errors.details(error, request_id=request.request_id.get()))


class _Counted:
    """Counts what happens within it as one call of an operation."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._started_at = _metrics.begin("operations", self._name)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        kind = None if error is None else errors.kind_of(error)
        _metrics.end("operations", self._name, self._started_at, kind=kind)


def _operation(function: Callable[..., Any]) -> Operation:
    """Make a function an operation: counted, and with every outcome as an answer.

    A plain function may run at once in any thread, beside others: it must be quick and change nothing. Whatever waits
    or changes sessions is a coroutine function, and runs on the one event loop.
    """
    name = function.__name__
    if not inspect.iscoroutinefunction(function):
        return _plain_operation(function)

    @functools.wraps(function)
    async def counted_while_awaited(*args: Any) -> tuple[Atom, Any]:
        with _Counted(name):
            return _OK, await function(*args)

    return _offered(counted_while_awaited)


def _plain_operation(function: Callable[..., Any]) -> Operation:
    """Make a plain function an operation: in one piece, for its wrapping should not take longer than itself."""
    name = function.__name__
    check_count = _count_checked(function)

    @functools.wraps(function)
    def operation(*args: Any) -> tuple[Atom, Any]:
        started_at = time.monotonic()
        try:
            check_count(args)
            answer = _OK, function(*args)
        except BaseException as error:  # noqa: BLE001 - here a call of a plain operation becomes an answer
            _metrics.add("operations", name, started_at, kind=errors.kind_of(error))
            return _failure_term(error)
        _metrics.add("operations", name, started_at)
        return answer

    return _registered(operation)


def _offered(function: Callable[..., Any]) -> Operation:
    """Offer a function that gives an answer itself, so that it also answers when it raises."""
    check_count = _count_checked(function)

    @functools.wraps(function)
    async def operation(*args: Any) -> tuple[Atom, Any]:
        try:
            check_count(args)
            answer: tuple[Atom, Any] = await function(*args)
        except BaseException as error:  # noqa: BLE001 - here a call of an awaited operation becomes an answer
            return _failure_term(error)
        return answer

    return _registered(operation)


def _registered(operation: Any) -> Operation:
    operation.failure_term = _failure_term
    OPERATIONS[operation.__name__] = operation
    return operation  # type: ignore[no-any-return]


def _count_checked(function: Callable[..., Any]) -> Callable[[Sequence[Any]], None]:
    """Give a function that checks how many arguments another is given."""
    parameters = inspect.signature(function).parameters.values()
    most = len(parameters)
    least = sum(parameter.default is parameter.empty for parameter in parameters)

    def check(args: Sequence[Any]) -> None:
        if not least <= len(args) <= most:
            takes = ", ".join(parameter.name for parameter in parameters)
            raise OperationError("input", f"{function.__name__} takes ({takes}), got {len(args)} arguments")

    return check


@_operation
def ping(payload: object = None) -> dict[str, Any]:
    """Answer with the versions of this side, its default model, and ``payload`` unchanged."""
    default = _sessions.default_model()
    return {
        "erlport_bridge": erlport_bridge.__version__,
        "dspy": dspy.__version__,
        "python": platform.python_version(),
        "codec": IMPLEMENTATION,
        "executable": sys.executable,
        "model": default.describe() if default else None,
        "payload": payload,
    }


@_operation
async def configure_lm(provider: object, config: object = None, opts: object = None) -> dict[str, Any]:
    """Set the language model of the port, or of the session that ``session_id`` names; answers its description."""
    session_id = _session_option(opts)
    model = models.language_model(provider, config)
    _sessions.configure(model, session_id)
    return model.describe()


@_operation
def list_modules() -> list[str]:
    """Answer the names of the modules that can be called."""
    return list(catalogue.MODULES)


@_operation
def describe_module(name: object) -> dict[str, Any]:
    """Answer what a module does, takes and adds, and the tools that it can be given by name."""
    entry = catalogue.find_entry(name)
    return {**entry.describe(), "tools": tools.available() if entry.takes_tools else {}}


@_operation
def validate_module(name: object, signature: object = None, opts: object = None) -> dict[str, Any]:
    """Check a module, a signature and options as ``execute_module`` does, and ask no model."""
    stage, options = _read_call(name, signature, opts, otherwise=_ANY_SIGNATURE)
    answer: dict[str, Any] = {"module": stage.entry.name, "warnings": list(options.warnings)}
    if stage.spec is not _ANY_SIGNATURE:
        pipeline.built((stage,))
        answer["signature"] = stage.spec.text
    return answer


@_operation
async def execute_module(module: object, signature: object, inputs: object, opts: object = None) -> dict[str, Any]:
    """Run a module once; answers the prediction."""
    deadline = Deadline()
    stage, options = _read_call(module, signature, opts)
    values = execution.read_inputs((stage,), stage.spec, inputs)
    return await _run(_request(stage, values, options), deadline)


@_operation
async def stream_module(
    reply_to: object, ref: object, module: object, signature: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a module once and tell of it meanwhile; answers the prediction, as ``execute_module`` does.

    The process ``reply_to`` gets messages ``{:dspex_stream, ref, event}``, at most ``buffer`` (an option) more than
    ``stream_ack`` has acknowledged. The events are described in ``docs/operations.md``.
    """
    deadline = Deadline()
    given = arguments.options(opts, "opts")
    buffer = given.pop("buffer", None)
    stage, options = _read_call(module, signature, given)
    values = execution.read_inputs((stage,), stage.spec, inputs)
    with streaming.opened(reply_to, ref, buffer) as events:
        return await _run(_request(stage, values, options), deadline, events)


@_operation
def stream_ack(ref: object, count: object) -> bool:
    """Give a stream room for ``count`` more events; answers ``false`` if it runs no more."""
    return streaming.acknowledge(ref, count)


@_operation
async def model_piece(token: object, text: object) -> bool:
    """Take the next piece of the answer of a model that is a function of Elixir; answers ``false`` if it is not wanted.

    Answers when there is room for another one.
    """
    return await elixir_model.take_piece(arguments.text(token, "token"), arguments.text(text, "text"))


@_operation
async def execute_batch(
    module: object, signature: object, list_of_inputs: object, opts: object = None
) -> list[tuple[Atom, Any]]:
    """Run a module for each element of a list; answers a list of ``{:ok, prediction}`` and ``{:error, …}`` in order.

    ``timeout`` is for all of them together, ``item_timeout`` for each: what is not done by then is a timeout, the rest
    is kept. ``max_concurrency`` says how many run at the same time, 256 at most; ``on_error: "fail_fast"`` ends all
    with the first that fails.
    """
    return await _module_batch(module, signature, list_of_inputs, arguments.options(opts, "opts"))


@_operation
async def stream_batch(
    reply_to: object, ref: object, module: object, signature: object, list_of_inputs: object, opts: object = None
) -> int:
    """Run a batch as ``execute_batch`` does, and tell of each result as soon as it is there; answers their number.

    The events are ``%{"type" => "result", "index" => index, "result" => {:ok, prediction} | {:error, …}}``.
    """
    given = arguments.options(opts, "opts")
    with streaming.opened(reply_to, ref, given.pop("buffer", None)) as events:
        return len(await _module_batch(module, signature, list_of_inputs, given, events))


@_operation
async def execute_program_batch(
    session_id: object, program_id: object, list_of_inputs: object, opts: object = None
) -> list[tuple[Atom, Any]]:
    """Run a stored program for each element of a list; see :func:`execute_batch` and :func:`execute_program`."""
    deadline = Deadline()
    given = arguments.options(opts, "opts")
    batch_options = batch.take_options(given)
    whole = execution.read_call_options(given)
    program = _find_program(session_id, program_id, whole)

    async def execute(inputs: Any, options: CallOptions, item_deadline: Deadline) -> dict[str, Any]:
        return await _run_program(program, inputs, options, item_deadline)

    return await _batch(batch.items_of(list_of_inputs), execute, whole, batch_options, deadline)


@_operation
async def evaluate_program(
    session_id: object, program_id: object, examples: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program for each of a list of examples, and score its predictions with the option ``metric``.

    An example is a map with the program's inputs and whatever the metric compares with. Answers ``score``, ``count``,
    ``failed``, ``total_tokens``, ``duration_ms`` and ``results``: for each example ``{:ok, %{"prediction", "score"}}``,
    or ``{:error, …}``, which counts as ``failure_score``. Further options are those of a batch.
    """
    deadline = Deadline()
    given = arguments.options(opts, "opts")
    metric, failure_score = given.pop("metric", None), given.pop("failure_score", 0.0)
    batch_options = batch.take_options(given)
    whole = execution.read_call_options(given)
    evaluation = evaluating.read_evaluation(metric, failure_score)
    program = _find_program(session_id, program_id, whole)

    async def execute(example: Any, options: CallOptions, item_deadline: Deadline) -> dict[str, Any]:
        inputs, labelled = evaluating.inputs_of(program.asked, example)
        prediction = await _run_program(program, inputs, options, item_deadline)
        return await evaluation.scored(labelled, prediction)

    answers = await _batch(batch.items_of(examples), execute, whole, batch_options, deadline)
    return evaluation.report(answers)


async def _module_batch(
    module: object, signature: object, list_of_inputs: object, given: dict[str, Any], events: EventStream | None = None
) -> list[tuple[Atom, Any]]:
    deadline = Deadline()
    batch_options = batch.take_options(given)
    stage, whole = _read_call(module, signature, given)
    template = _request(stage, {}, whole)

    async def execute(inputs: Any, options: CallOptions, item_deadline: Deadline) -> dict[str, Any]:
        values = execution.read_inputs((stage,), stage.spec, inputs)
        return await _run(replace(template, values=values, options=options), item_deadline)

    return await _batch(batch.items_of(list_of_inputs), execute, whole, batch_options, deadline, events)


async def _batch(
    items: list[Any],
    execute: Callable[[Any, CallOptions, Deadline], Awaitable[dict[str, Any]]],
    whole: CallOptions,
    batch_options: BatchOptions,
    deadline: Deadline,
    events: EventStream | None = None,
) -> list[tuple[Atom, Any]]:
    """Run the items of a batch, whose options are ``whole``, and tell of each of them."""

    async def execute_item(inputs: Any) -> dict[str, Any]:
        options, item_deadline = whole, deadline
        if batch_options.item_timeout_ms is not None:
            left_s = deadline.left_s(whole.timeout_ms)
            if left_s is None or left_s * 1000 > batch_options.item_timeout_ms:
                options, item_deadline = replace(whole, timeout_ms=batch_options.item_timeout_ms), Deadline()
        return await execute(inputs, options, item_deadline)

    async def tell(index: int, result: dict[str, Any] | BaseException) -> None:
        if events is not None:
            await events.send({"type": "result", "index": index, "result": _item_answer(result)})

    results = await batch.run(
        items, execute_item, batch_options, is_over=lambda: deadline.left_s(whole.timeout_ms) == 0, tell=tell
    )
    return [_item_answer(result) for result in results]


def _item_answer(result: dict[str, Any] | BaseException) -> tuple[Atom, Any]:
    return _failure_term(result) if isinstance(result, BaseException) else (_OK, result)


@_operation
async def create_program(spec: object, opts: object = None) -> dict[str, Any]:
    """Store a program in a session; answers its id, its session's id and its version."""
    return _sessions.add_program(spec, _session_option(opts)).describe()


@_operation
async def execute_program(
    session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program; ``session_id`` may be ``nil``. Answers the prediction of all its stages together."""
    return await _execute_program(session_id, program_id, inputs, arguments.options(opts, "opts"))


@_operation
async def stream_program(
    reply_to: object, ref: object, session_id: object, program_id: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a stored program and tell of it meanwhile; see :func:`stream_module` and :func:`execute_program`."""
    given = arguments.options(opts, "opts")
    with streaming.opened(reply_to, ref, given.pop("buffer", None)) as events:
        return await _execute_program(session_id, program_id, inputs, given, events)


async def _execute_program(
    session_id: object, program_id: object, inputs: object, opts: object, events: EventStream | None = None
) -> dict[str, Any]:
    deadline = Deadline()
    options = execution.read_call_options(opts)
    return await _run_program(_find_program(session_id, program_id, options), inputs, options, deadline, events)


def _find_program(session_id: object, program_id: object, options: CallOptions) -> Program:
    named = arguments.optional_text(session_id, "session_id")
    if named is not None and options.session_id not in (None, named):
        raise OperationError(
            "input",
            f"expected one session, got {quoted(named)} at session_id "
            f"and {quoted(options.session_id)} at opts.session_id",
            path="opts.session_id",
        )
    return _sessions.find_program(named or options.session_id, arguments.text(program_id, "program_id"))


async def _run_program(
    program: Program, inputs: object, options: CallOptions, deadline: Deadline, events: EventStream | None = None
) -> dict[str, Any]:
    values = program.with_history(execution.read_inputs(program.stages, program.asked, inputs))
    prediction = await _run(_program_request(program, values, options), deadline, events)
    program.record(values, prediction)
    return prediction


@_operation
async def list_programs(session_id: object = None) -> list[dict[str, Any]]:
    """Answer the programs of a session, or of all sessions."""
    wanted = arguments.optional_text(session_id, "session_id")
    found = [_sessions.find(wanted)] if wanted is not None else _sessions.all()
    return [program.describe() for session in found for program in session.programs.values()]


@_operation
async def delete_program(session_id: object, program_id: object) -> dict[str, Any]:
    """Forget a program; answers what it was."""
    return _sessions.delete_program(
        arguments.optional_text(session_id, "session_id"), arguments.text(program_id, "program_id")
    ).describe()


@_operation
async def list_sessions() -> list[dict[str, Any]]:
    """Answer the sessions of this port."""
    return [session.describe() for session in _sessions.all()]


@_operation
async def close_session(session_id: object) -> dict[str, Any]:
    """Forget a session and its programs; answers what it was."""
    return _sessions.close(arguments.text(session_id, "session_id")).describe()


@_operation
async def cancel(request_id: object) -> int:
    """Cancel the calls that were given this ``request_id``; answers how many there were. Each is answered as well."""
    return request.cancel(arguments.text(request_id, "request_id"))


@_operation
async def metrics() -> dict[str, Any]:
    """Answer what this port has done so far."""
    sessions = _sessions.all()
    held = {"sessions": len(sessions), "programs": sum(len(session.programs) for session in sessions)}
    return {**_metrics.report(), **held, "threads": threads.report()}


@_offered
async def handle(command: object, args: object = None) -> tuple[Atom, Any]:
    """Call an operation by name, with its arguments as a map of their names or as a list."""
    function, values = _called(command, args)
    answer = function(*values)
    return await answer if isinstance(answer, Awaitable) else answer


@_offered
async def handle_json(command: object, text: object = None) -> tuple[Atom, str]:
    """Call an operation by name, with its arguments as JSON text; answers JSON text too.

    The text is an array of the arguments in order, or an object of them by name. What JSON does not have comes out
    as its nearest: a tuple as an array, an atom as a string, ``{:ok, value}`` within a batch as ``{"ok": value}``.
    """
    try:
        function, values = _called(command, _json_arguments(text))
    except OperationError as error:
        status, answer = _failure_term(error)
    else:
        outcome = function(*values)
        status, answer = await outcome if isinstance(outcome, Awaitable) else outcome
    try:
        return status, json.dumps(_json_value(answer), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        refused = EncodeError(f"cannot write the result as JSON: {error}; use the native format")
        return _ERROR, json.dumps(_json_value(_failure_term(refused)[1]))


def _json_arguments(text: object) -> object:
    if text is None:
        return []
    try:
        return json.loads(arguments.text(text, "text"))
    except (ValueError, RecursionError) as error:
        raise OperationError("input", f"expected JSON at text: {error}", path="text") from None


def _called(command: object, args: object) -> tuple[Operation, Sequence[Any]]:
    name = arguments.text(command, "command")
    function = OPERATIONS.get(name)
    if function is None or name in _BY_NAME:
        known = sorted(OPERATIONS.keys() - _BY_NAME)
        raise OperationError(
            "input",
            f"unknown operation {quoted(name)}{suggestion(name, known)}; known: {', '.join(known)}",
            path="command",
        )
    if isinstance(args, list):
        return function, args
    given = arguments.options(args, "args")
    names = list(inspect.signature(function).parameters)
    for key in given:
        if key not in names:
            raise OperationError("input", f"{name} takes ({', '.join(names)}), got {quoted(key)}", path=f"args.{key}")
    last = max((names.index(key) for key in given), default=-1)
    return function, [given.get(key) for key in names[: last + 1]]


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and value[0] in (_OK, _ERROR):
        return {str(value[0]): _json_value(value[1])}
    if isinstance(value, tuple) and len(value) == 2 and value[0] == _PYTHON_EXCEPTION:
        return _json_value(value[1])
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return value


def _session_option(opts: object) -> str | None:
    """Read the options of an operation that takes ``session_id`` and nothing else."""
    options = arguments.options(opts, "opts")
    arguments.only(options, ["session_id"], "option", "opts")
    return arguments.optional_text(options.get("session_id"), "opts.session_id")


def _read_call(
    module: object, signature: object, opts: object, *, otherwise: SignatureSpec | None = None
) -> tuple[Stage, CallOptions]:
    """Read a module, its signature (``otherwise`` if there is none) and the options of a call."""
    given = arguments.options(opts, "opts")
    options = execution.read_call_options(given, stages.entries_of(module, given))
    source = stages.given_signature(signature, "signature")
    if signature is None and otherwise is not None:
        source = SignatureSource(lambda _: otherwise)
    return stages.read_stage(module, "spec", source, call=options.module), options


def _request(stage: Stage, values: Mapping[str, Any], options: CallOptions) -> Request:
    model = _sessions.model_for(options.session_id, options.model)
    module = pipeline.built((stage,))
    if options.demos:
        module = execution.with_demos(module, stage, options.demos)
    return Request(module, (stage,), values, model, options)


def _program_request(program: Program, values: Mapping[str, Any], options: CallOptions) -> Request:
    model = _sessions.model_for(program.session_id, options.model, program.model)
    settings = {**program.settings, **options.settings}
    with_session = replace(options, settings=settings, session_id=program.session_id)
    return Request(pipeline.built(program.stages, program.outputs), program.stages, values, model, with_session)


async def _run(request: Request, deadline: Deadline, events: EventStream | None = None) -> dict[str, Any]:
    """Run a request within what is left of its budget, counted for each of its modules."""
    names = {stage.entry.name for outer in request.stages for stage in outer.chain}
    started = {name: _metrics.begin("modules", name) for name in names}
    kind, tokens = None, 0
    try:
        prediction = await execution.run(request, timeout_s=deadline.left_s(request.options.timeout_ms), events=events)
        tokens = execution.total_tokens(prediction)
        return prediction
    except BaseException as error:
        kind = errors.kind_of(error)
        raise
    finally:
        for name, started_at in started.items():
            _metrics.end("modules", name, started_at, kind=kind, tokens=tokens)


if stock.in_use():
    globals().update(stock.adapted(OPERATIONS))
