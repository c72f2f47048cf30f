"""One request: its options, its module, its context and deadline, and its prediction as a term."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import dspy

from erlport_bridge import request as running_request
from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import callbacks, models, sandbox
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.execution import output_checks
from erlport_bridge.programs.execution.output_checks import is_parse_error
from erlport_bridge.programs.execution.streaming import EventStream, Telling
from erlport_bridge.programs.models import (
    GENERATION_SETTINGS,
    AdapterChoice,
    LanguageModel,
    ModelAccount,
    read_adapter,
    read_settings,
)
from erlport_bridge.programs.modules import EMBEDDER, ModuleEntry, Vector, read_vector
from erlport_bridge.programs.pipelines import CallPart, Pipeline, Stage
from erlport_bridge.programs.signatures import NO_DEFAULT, SignatureSpec
from erlport_bridge.programs.text import arguments, quoted, text_of
from erlport_bridge.programs.tools import CallEndedError
from erlport_bridge.programs.values import convert, input_values, media, plain
from erlport_bridge.request import Progress, turns, within
from erlport_bridge.term import shown

#: The key of a prediction that holds everything beside its fields.
META: Final = "$meta"

_CALL_OPTIONS: Final = frozenset(
    ["timeout", "session_id", "request_id", "lm", "adapter", "demos", "tools", "parse_retries", "allow_urls"]
)
#: Options that are those of the calls of a stored program where many calls are made for one.
SHARED_OPTIONS: Final = (_CALL_OPTIONS | GENERATION_SETTINGS | {"version"}) - {"demos", "tools", "parse_retries"}
_MAX_PARSE_RETRIES: Final = 10
_NO_NAMES: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class CallOptions:
    """The options of one call, checked.

    Attributes:
        timeout_ms: The whole budget of the call; ``None``: no limit.
        settings: Generation settings for the model.
        module: For the module itself, not checked yet.
        demos: Examples for the prompt.
        parse_retries: How often an answer that does not keep to the signature is asked for again.
        warnings: What was given and means nothing here.
        version: Of a stored program; ``None``: the newest.
        embedder: For a stored program that chooses its examples by vectors.
        vector: In its place: that of the inputs.
    """

    timeout_ms: int | None = None
    session_id: str | None = None
    request_id: str | None = None
    model: LanguageModel | None = None
    adapter: AdapterChoice = field(default_factory=AdapterChoice)
    settings: Mapping[str, Any] = field(default_factory=dict)
    module: CallPart = field(default_factory=CallPart)
    demos: tuple[Mapping[str, Any], ...] = ()
    parse_retries: int = 0
    warnings: tuple[str, ...] = ()
    version: int | None = None
    embedder: ElixirFunction | None = None
    vector: Vector | None = None


def read_call_options(opts: object, entries: Sequence[ModuleEntry] = ()) -> CallOptions:
    """Read the options of a call.

    Args:
        opts: A map or keyword list.
        entries: The module that is called, and those that it runs; none for a stored program, whose modules have their
            options already.

    Raises:
        OperationError: Of kind ``input``, with the path ``opts.…``; an option that nobody takes is only a warning.
    """
    callbacks.begin()
    given = arguments.options(opts, "opts")
    media.allow_urls(arguments.boolean(given.get("allow_urls"), "opts.allow_urls"))
    request_id = arguments.optional_text(given.get("request_id"), "opts.request_id")
    running_request.begin(request_id)
    called = entries[0].name if entries else "a stored program"
    own = entries[0].option_names if entries else _NO_NAMES
    # Only what is stored has versions.
    version = None if entries else arguments.version(given.pop("version", None))
    embedder, vector = (None, None) if entries else (given.pop("embedder", None), given.pop("vector", None))
    warnings = [
        f"{called} takes no option {quoted(name)}; it was ignored"
        for name in given.keys() - _CALL_OPTIONS - GENERATION_SETTINGS - own
    ]
    for name in ("tools", "demos"):
        is_taken = entries and (name == "demos" or any(entry.takes_tools for entry in entries))
        if given.get(name) and not is_taken:
            warnings.append(f"{called} takes no {name}; they were ignored")
            del given[name]
    return CallOptions(
        timeout_ms=arguments.timeout_ms(given.get("timeout")),
        session_id=arguments.optional_text(given.get("session_id"), "opts.session_id"),
        request_id=request_id,
        model=None if given.get("lm") is None else models.from_option(given["lm"]),
        adapter=read_adapter(given.get("adapter")),
        settings=read_settings(given, "opts"),
        module=CallPart({name: given[name] for name in own & given.keys()}, given.get("tools")),
        demos=_demos(given.get("demos")),
        parse_retries=_parse_retries(given.get("parse_retries")),
        warnings=tuple(sorted(warnings)),
        version=version,
        embedder=None if embedder is None else EMBEDDER.read(embedder, "opts.embedder"),
        vector=None if vector is None else read_vector(vector, "opts.vector"),
    )


def read_inputs(stages: Sequence[Stage], whole: SignatureSpec, inputs: object) -> dict[str, Any]:
    """Check the inputs of a call; text fills the first input of the signature that has no default.

    Raises:
        OperationError: Of kind ``input``, with the path ``inputs.…``.
    """
    given = inputs
    if isinstance(inputs, str | bytes) or text_of(inputs):
        needed = [item for item in whole.inputs if item.default is NO_DEFAULT]
        given = {(needed or whole.inputs)[0].name: inputs}
    optional = {
        name: annotation
        for stage in stages
        for name, annotation in stage.optional_inputs.items()
        if name not in whole.input_names
    }
    extra = {}
    if optional and isinstance(given, Mapping):
        extra = {
            str(name): value if optional[name] is Any else convert(optional[name], value, f"inputs.{name}")
            for name, value in given.items()
            if name in optional
        }
        given = {name: value for name, value in given.items() if name not in optional}
    return input_values(whole, given) | extra


def with_demos(module: Pipeline, stage: Stage, demos: Sequence[Mapping[str, Any]]) -> Pipeline:
    """Give a module that shows its model ``demos``; a copy, for the module itself is shared.

    Raises:
        OperationError: Of kind ``input``: a demo has a field that the signature does not have, or of another type.
    """
    fields = {item.name: item for item in (*stage.spec.inputs, *stage.spec.outputs)}
    checked = []
    for index, demo in enumerate(demos):
        known = tuple(fields[name] for name in demo if name in fields)
        where = f"opts.demos[{index}]"
        added = {name: convert(Any, demo[name], f"{where}.{name}") for name in demo if name in stage.adds}
        given = {name: value for name, value in demo.items() if name not in added}
        spec = SignatureSpec(known, (), None)
        checked.append(dspy.Example(**input_values(spec, given, path=where), **added))
    copy: Pipeline = module.deepcopy()
    for predictor in copy.predictors():
        if all(item.name in predictor.signature.output_fields for item in stage.spec.outputs):
            predictor.demos = checked
    return copy


@dataclass(frozen=True)
class Request:
    """A module with checked inputs, ready to run; ``model`` is ``None`` where nothing asks one and there is none."""

    module: Pipeline
    stages: tuple[Stage, ...]
    values: Mapping[str, Any]
    model: LanguageModel | None
    options: CallOptions


async def run(
    request: Request,
    *,
    timeout_s: float | None,
    progress: Progress,
    account: ModelAccount,
    events: EventStream | None = None,
) -> dict[str, Any]:
    """Run a module under its deadline.

    Args:
        request: What to run.
        timeout_s: What is left of the caller's budget, in seconds; ``None``: no limit.
        progress: Follows it.
        account: Of what it asks of models.
        events: Is told of the run while it lasts.

    Returns:
        The prediction as a term: its fields, and ``$meta``.

    Raises:
        OperationError: Of kind ``timeout``, with the stage in which the time ran out; the work is cancelled.
        Exception: Whatever DSPy raises.
    """
    if timeout_s == 0:
        raise timeout_error(request, "queue")
    progress.follow()
    account.follow()
    running_request.queued.set(progress.queued)
    started_at = time.monotonic()
    with sandbox.Sandboxes() as sandboxes:
        work = asyncio.ensure_future(_predict(request, sandboxes, events))
        try:
            # Not `wait_for`: it waits for the cancelled work to end, and the deadline is the caller's.
            await asyncio.wait({work}, timeout=timeout_s)
            if not work.done():
                is_reader = events is not None and events.is_waiting
                raise timeout_error(request, "reader" if is_reader else progress.stage)
            prediction = work.result()
        except CallEndedError as ended:
            raise ended.__cause__ or ended from None
        except (RecursionError, ValueError) as error:
            if not is_parse_error(error):
                raise
            # Text that nests too deep, for one: DSPy lets its parsers' own exceptions through.
            raise OperationError("parse", f"cannot read the model's answer: {message_of(error)}") from error
        finally:
            # Whatever it has raised, or still raises, may have no reader. It is asked for, or asyncio would report it.
            if work.done():
                _ask_for_exception(work)
            else:
                work.cancel()
                work.add_done_callback(_ask_for_exception)
    duration_ms = (time.monotonic() - started_at) * 1000
    return prediction_term(prediction, request, account, duration_ms)


def _ask_for_exception(ended: asyncio.Future[Any]) -> None:
    if not ended.cancelled():
        ended.exception()


def asking(model: LanguageModel, options: CallOptions) -> contextlib.AbstractContextManager[None]:
    """Give the context in which DSPy asks this model, for what is asked beside a program: by a metric, for one."""
    lm = models.with_settings(model.lm, options.settings)
    context: contextlib.AbstractContextManager[None] = dspy.context(
        lm=lm, adapter=options.adapter.build(), trace=[], disable_history=True, callbacks=[]
    )
    return context


def timeout_error(request: Request, stage: str) -> OperationError:
    """Give the error of a request whose time ran out in ``stage``."""
    return OperationError(
        "timeout",
        f"no answer within {request.options.timeout_ms} ms; the time ran out in stage {quoted(stage)}",
        stage=stage,
        model=request.model.model if request.model else None,
    )


async def _predict(
    request: Request,
    sandboxes: sandbox.Sandboxes,
    events: EventStream | None,
) -> dspy.Prediction:
    await turns.turn()
    if any(stage.needs_sandbox for stage in request.stages):
        # Before the model is paid for.
        with within("sandbox"):
            await asyncio.to_thread(sandbox.probe)
        sandboxes.prepare()
    for stage in request.stages:
        request.options.adapter.check(stage.spec)
    lm = models.with_settings(request.model.lm, request.options.settings) if request.model else None
    if lm is not None and request.options.adapter.calls_natively:
        lm = lm.calling_tools()
    adapter = request.options.adapter.build()
    telling = None if events is None else _telling(request, adapter, events)
    with dspy.context(
        lm=lm,
        adapter=adapter,
        trace=[],
        disable_history=True,
        track_usage=True,
        callbacks=[] if telling is None else [telling],
        # All inputs have been checked.
        warn_on_type_mismatch=False,
        interpreter_factory=sandboxes.factory,
        **({} if telling is None else telling.settings()),
    ):
        # What has been told to a reader cannot be taken back.
        retries = 0 if telling else request.options.parse_retries
        prediction = await output_checks.asked(request.module, request.stages, request.values, retries=retries)
    if telling is not None:
        await telling.finish(prediction)
    return prediction


def _telling(request: Request, adapter: dspy.Adapter, events: EventStream) -> Telling:
    reads_chat = type(adapter) is dspy.ChatAdapter and request.model is not None and request.model.writes_in_pieces
    return Telling(events, request.module, reads_chat=reads_chat)


def prediction_term(
    prediction: dspy.Prediction, request: Request, account: ModelAccount, duration_ms: float
) -> dict[str, Any]:
    """Give a prediction as a term.

    Raises:
        EncodeError: A field holds a value that has no term.
    """
    fields = {str(name): plain(value, f'["{name}"]') for name, value in prediction.items()}
    completions = getattr(prediction, "_completions", None)
    columns = dict(completions.items()) if completions is not None else {}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        **fields,
        META: {
            # In the order of the signature, which a map on the other side does not keep.
            "fields": list(fields),
            "usage": plain(prediction.get_lm_usage() or {}, '["usage"]'),
            "completions": plain(rows, '["completions"]'),
            "duration_ms": duration_ms,
            "warnings": list(request.options.warnings),
            "model": account.answered_for(request.model.model) if request.model else None,
            **account.describe(),
            "request_id": request.options.request_id,
            "session_id": request.options.session_id,
        },
    }


def added_usage(usage: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Add what was used of models, as DSPy counts it: numbers by name, within maps by model."""
    added = dict(usage)
    for name, value in other.items():
        if isinstance(value, Mapping):
            added[name] = added_usage(added.get(name) or {}, value)
        elif isinstance(value, int | float):
            added[name] = (added.get(name) or 0) + value
    return added


def total_tokens(prediction: Mapping[str, Any]) -> int:
    """Give the tokens that a prediction's term says it cost, over all models."""
    counts = (usage.get("total_tokens") for usage in prediction[META]["usage"].values())
    return sum(count for count in counts if isinstance(count, int))


def _parse_retries(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= _MAX_PARSE_RETRIES:
        raise OperationError(
            "input",
            f"expected 0 to {_MAX_PARSE_RETRIES} at opts.parse_retries, got {shown(value)}",
            path="opts.parse_retries",
        )
    return value


def _demos(value: object) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of maps at opts.demos, got {shown(value)}", path="opts.demos")
    return tuple(arguments.options(item, f"opts.demos[{index}]") for index, item in enumerate(value))
