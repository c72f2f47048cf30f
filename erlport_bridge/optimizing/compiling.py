"""Compile a program: an optimizer runs it on examples; the result is what its predictors have learned."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dspy
import tqdm  # type: ignore[import-untyped]
from dspy.utils.callback import BaseCallback

from erlport_bridge import dspy_patches, tracing
from erlport_bridge import request as running_request
from erlport_bridge.errors import OperationError, details, message_of, timeout_error
from erlport_bridge.optimizing.optimizers import CompileJob, OptimizerEntry
from erlport_bridge.optimizing.trainee import Runner, name_of, trainee_of
from erlport_bridge.programs import models, sandbox
from erlport_bridge.programs.execution import METRIC, CallOptions, dspy_context
from erlport_bridge.programs.models import KeptAnswers, LanguageModel, ModelAccount
from erlport_bridge.programs.modules import Judgement, Reward, Traced, rated
from erlport_bridge.programs.options import IntegerOption, TextOption, UnreadOption, Vocabulary
from erlport_bridge.programs.pipelines import HISTORY_FIELD, Learned, learned
from erlport_bridge.programs.sessions import Program
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.values import convert, input_values, require_compared, require_inputs
from erlport_bridge.request import Progress
from erlport_bridge.term import shown

_MAX_COMPILES: Final = 4

# For progress bars. tqdm's own lock works between processes; for such a lock Python 3.14 starts a process that outlives
# this one and then warns of the lock.
_PROGRESS_LOCK: Final = threading.RLock()

#: The options of every compilation besides those of its calls and of its optimizer.
COMPILE_OPTIONS: Final = Vocabulary(
    TextOption(name="optimizer", required=True, description="the optimizer's name"),
    METRIC,
    UnreadOption(name="valset", type_text="examples", description="examples that choose among the candidates"),
    IntegerOption(name="num_threads", default=8, minimum=1, maximum=64, description="examples that run at a time"),
    IntegerOption(
        name="max_errors",
        default=10,
        minimum=1,
        maximum=1_000_000,
        description="how many calls or metrics may fail before the compilation ends",
    ),
)

#: Called with each event of a running compilation, and awaited (back-pressure).
Tell = Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]]

_running = 0


@dataclass(frozen=True)
class Compilation:
    """The program, the optimizer, its options and the examples of one compilation, checked.

    Attributes:
        program: The program that is compiled.
        entry: The entry of the optimizer.
        options: All options of the optimizer, by name.
        trainset: The examples to learn from.
        valset: The examples that choose among the candidates; ``None``: the optimizer takes a part of the trainset.
        metric: Rates each prediction; ``None``: every prediction is good.
        num_threads: How many examples run at the same time.
        max_errors: How many calls or metrics may fail before the compilation ends with an error.
        versions: All versions of the program.
    """

    program: Program
    entry: OptimizerEntry
    options: Mapping[str, Any]
    trainset: list[dspy.Example]
    valset: list[dspy.Example] | None
    metric: Reward | None
    num_threads: int = 8
    max_errors: int = 10
    versions: Mapping[int, Program] = field(default_factory=dict)

    def check_compared(self) -> None:
        """Check that each example has what the metric compares, before a model is paid.

        Raises:
            OperationError: Of kind ``input``, with the path of the example: a field is missing.
        """
        if self.metric is None or not self.entry.uses_metric:
            return
        for path, examples in (("trainset", self.trainset), ("opts.valset", self.valset or ())):
            for index, example in enumerate(examples):
                given = [name for name in example.keys() if name != HISTORY_FIELD]  # noqa: SIM118 (no mapping)
                require_compared(self.metric.compared, given, f"{path}[{index}]")


def read_examples(value: object, program: Program, path: str, *, least: int = 1) -> list[dspy.Example]:
    """Read examples: maps of the program's inputs, and of further fields for the metric or the prompt.

    Raises:
        OperationError: Of kind ``input``, with the path of the invalid element.
    """
    if not isinstance(value, list) or (value and arguments.is_keyword_list(value)):
        raise OperationError("input", f"expected a list of maps at {path}, got {shown(value)}", path=path)
    if len(value) < least:
        message = f"expected at least {least} example{'s' if least > 1 else ''} at {path}, got {len(value)}"
        raise OperationError("input", message, path=path)
    return [_example(item, program, f"{path}[{index}]") for index, item in enumerate(value)]


def _example(value: object, program: Program, path: str) -> dspy.Example:
    given = arguments.options(value, path)
    asked = program.asked
    inputs = {item.name for item in asked.inputs}
    require_inputs(asked, given, path)
    read = input_values(asked, {name: item for name, item in given.items() if name in inputs}, path=path)
    for stage in program.stages:
        for name, annotation in stage.optional_inputs.items():
            if name in given and name not in read and name != HISTORY_FIELD:
                read[name] = given[name] if annotation is Any else convert(annotation, given[name], f"{path}.{name}")
                inputs.add(name)
    labels = tuple(item for item in asked.outputs if item.name in given)
    outputs = SignatureSpec(labels, (), None)
    read |= input_values(outputs, {item.name: given[item.name] for item in labels}, path=path)
    rest = {name: item for name, item in given.items() if name not in read}
    history = {HISTORY_FIELD: dspy.History(messages=[])} if program.keeps_history else {}
    return dspy.Example(**history, **read, **rest).with_inputs(*history, *inputs)


async def run(
    compilation: Compilation,
    model: LanguageModel,
    options: CallOptions,
    *,
    timeout_s: float | None,
    account: ModelAccount,
    tell: Tell,
    is_counted: bool = True,
    kept: KeptAnswers | None = None,
) -> tuple[Learned, dict[str, Any]]:
    """Compile a program.

    Args:
        compilation: The program, the optimizer, its options and the examples.
        model: The model that the program calls.
        options: The options of the call.
        timeout_s: What is left of the caller's budget, in seconds; ``None``: no limit.
        account: Collects the usage and cost of the compilation's model requests.
        tell: Called with the event of each score and each candidate.
        is_counted: Whether this compilation counts against the limit of those that run at the same time.
        kept: Where the answers of models are kept, for a repetition of the compilation; ``None``: nowhere.

    Returns:
        What the predictors have learned, and a report as a term.

    Raises:
        OperationError: Of kind ``missing_dependency``: the patch that tells DSPy's threads which call they work for is
            not installed. Of kind ``timeout``: the time ran out. Of kind ``overloaded``: too many compilations run. Of
            kind ``input``: the optimizer refuses its options. Of kind ``budget``: nothing may be spent any more.
        Exception: The error of the call or metric that exceeded ``max_errors``.
    """
    try:
        with models.keeping(kept):
            found, report = await _run(compilation, model, options, timeout_s, account, tell, is_counted)
    except BaseException as error:
        account.note_paid(error)
        raise
    if kept is not None:
        report["kept_answers"] = kept.found
        if kept.failure is not None:
            report["warnings"].append(f"a repetition would pay again: {kept.failure.message}")
    return found, report


async def _run(
    compilation: Compilation,
    model: LanguageModel,
    options: CallOptions,
    timeout_s: float | None,
    account: ModelAccount,
    tell: Tell,
    is_counted: bool,
) -> tuple[Learned, dict[str, Any]]:
    dspy_patches.require("optimizer_threads", "optimizers")
    started_at = time.monotonic()
    progress = Progress()
    progress.end_after(timeout_s)
    progress.follow()
    account.follow()
    running_request.queued.set(progress.queued)
    running_request.ends_at.set(None if timeout_s is None else time.monotonic() + timeout_s)
    if any(stage.needs_sandbox for stage in compilation.program.stages):
        await sandbox.probe()
    runner = Runner()
    entry = compilation.entry
    whole = compilation.valset or (compilation.trainset if entry.validates_on_trainset else None)
    record = _Record(runner, tell, whole)
    lm = models.with_settings(model.lm, {**compilation.program.settings, **options.settings})
    with (
        _counted() if is_counted else contextlib.nullcontext(),
        tracing.span("optimizer", entry.name),
        sandbox.Sandboxes() as sandboxes,
    ):
        context = dspy_context(
            lm,
            options.adapter.build(),
            track_usage=False,
            callbacks=[record],
            interpreter_factory=sandboxes.factory,
            num_threads=compilation.num_threads,
            max_errors=compilation.max_errors,
            own_models=models.OwnModels(lm, compilation.program.own_models(options.settings)),
        )
        work = asyncio.ensure_future(asyncio.to_thread(_optimize, compilation, lm, runner, record, context))
        try:
            ended = await progress.end_of(work)
            if ended is not None:
                raise ended
            if not work.done():
                message = f"not compiled within {options.timeout_ms} ms; {record.metric_calls} answers were scored"
                raise timeout_error(message, stage=progress.stage, model=model.model, cause=progress.failure)
            found = work.result()
        finally:
            runner.end()
            if not work.done():
                work.cancel()
                work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return found, record.report(compilation.entry.name, found, account.describe(), time.monotonic() - started_at)


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """Count the body as one running compilation.

    Raises:
        OperationError: Of kind ``overloaded``: the maximum number of compilations runs already.
    """
    global _running
    if _running >= _MAX_COMPILES:
        message = f"{_running} programs are being compiled on this port already; wait for one of them"
        raise OperationError("overloaded", message)
    _running += 1
    try:
        yield
    finally:
        _running -= 1


def _optimize(
    compilation: Compilation,
    lm: dspy.LM,
    runner: Runner,
    record: _Record,
    context: contextlib.AbstractContextManager[None],
) -> Learned:
    """Run the optimizer; to be called in a thread."""
    # Its output and log lines are meant for a console: progress bars, and every example that failed.
    running_request.is_silent.set(True)
    tqdm.tqdm.monitor_interval = 0
    tqdm.tqdm.set_lock(_PROGRESS_LOCK)
    entry = compilation.entry
    chosen = {
        name: value.lm if isinstance(value, LanguageModel) else value for name, value in compilation.options.items()
    }
    with context:
        student = trainee_of(compilation.program.module(), runner)
        metric = None
        if compilation.metric is not None:
            metric = record.observed(compilation.metric, with_feedback=entry.gives_feedback)
        versions = {number: version.learned or {} for number, version in compilation.versions.items()}
        job = CompileJob(student, metric, lm, chosen, list(compilation.trainset), compilation.valset, versions)
        try:
            compiled = entry.run(job)
        except Exception as error:
            if record.last_error is not None:
                raise record.last_error from error
            if isinstance(error, AssertionError | ValueError | TypeError):
                message = f"{entry.name} refuses: {message_of(error)}"
                raise OperationError("input", message, path="opts") from error
            raise
        if record.last_error is not None and record.failures == record.metric_calls:
            # Without a single score, the optimizer cannot have learned anything.
            raise record.last_error
        return learned.learned_of(compiled)


class _Record(BaseCallback):  # type: ignore[misc]
    """A callback of DSPy that records the scores of a compilation, and reports them as events."""

    def __init__(self, runner: Runner, tell: Tell, whole: list[dspy.Example] | None) -> None:
        self._runner = runner
        self._whole = whole
        # What is being scored: the examples, and all that the optimizer scores by.
        self._evaluations: dict[str, tuple[Any, Any]] = {}
        self._tell = tell
        self.metric_calls = 0
        self.failures = 0
        # Scores that are not from 0 to 1.
        self._beyond = 0
        self.last_error: Exception | None = None
        self._candidates: list[float] = []

    def observed(self, metric: Reward, *, with_feedback: bool) -> Callable[..., Any]:
        """Return a metric in DSPy's form, to be called in its threads."""

        def score(
            gold: dspy.Example, pred: dspy.Prediction, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
        ) -> Any:
            # GEPA gives a prediction without a trace where a program's answer could not be read.
            traced = Traced(trace, pred_name, pred_trace, name_of)
            judged = self._runner.run(lambda: self._judge(metric, gold, pred, traced))
            if with_feedback:
                return dspy.Prediction(score=judged.score, feedback=judged.feedback)
            return judged.score

        return score

    async def _judge(
        self, metric: Reward, example: dspy.Example, prediction: dspy.Prediction, traced: Traced
    ) -> Judgement:
        try:
            judged = await rated("metric", metric, dict(example.items()), prediction, traced)
        except Exception as error:
            self.metric_calls += 1
            self._note(error)
            raise
        self.metric_calls += 1
        self._beyond += not 0 <= judged.score <= 1
        await self._tell(
            {
                "type": "scored",
                "score": judged.score,
                "metric_calls": self.metric_calls,
                "failures": self.failures,
                "best_score": self._best(),
            }
        )
        return judged

    def _note(self, error: Exception) -> None:
        self.failures += 1
        self.last_error = error

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        """Record which examples are scored."""
        examples = inputs.get("devset")
        self._evaluations[call_id] = (instance.devset if examples is None else examples), instance.devset

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        """Report that one candidate has been scored with all examples."""
        examples, every = self._evaluations.pop(call_id, ((), ()))
        scored = set(map(id, examples))
        # The score of a part of the examples, such as a minibatch, says little, and is as good as chance can make it.
        if outputs is None or not all(id(example) in scored for example in self._whole or every):
            return
        self._candidates.append(float(outputs.score))
        event = {
            "type": "candidate",
            "number": len(self._candidates),
            "score": float(outputs.score),
            "best_score": self._best(),
        }
        self._runner.run(lambda: self._tell(event))

    def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        """Record the error of a module; that of an example may have failed."""
        if exception is not None and isinstance(exception, Exception):
            self.last_error = exception

    def _best(self) -> float | None:
        return max(self._candidates, default=None)

    def report(self, optimizer: str, found: Learned, account: Mapping[str, Any], duration_s: float) -> dict[str, Any]:
        """Return the optimizer's report as a term."""
        warnings = []
        if self._beyond:
            scores = f"{self._beyond} of {self.metric_calls} scores of the metric are not from 0 to 1"
            warnings.append(f"{scores}, so that those of candidates are no percentages")
        if self.last_error is not None:
            failed = details(self.last_error)["message"].partition("\n")[0]
            warnings.append(f"some calls failed, at last: {failed}")
        return {
            "optimizer": optimizer,
            "score": self._best(),
            "candidates": list(self._candidates),
            "metric_calls": self.metric_calls,
            "failures": self.failures,
            "demos": {name: len(known.demos) for name, known in found.items()},
            "cost": account["cost"],
            "cache_hits": account["cache_hits"],
            "duration_ms": duration_s * 1000,
            "warnings": warnings,
        }
