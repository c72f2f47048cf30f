"""Run ``dspy.KNNFewShot``: a program that learns anew for each call, from the examples nearest to its inputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.optimizing import compiling
from erlport_bridge.optimizing.compiling import Compilation
from erlport_bridge.optimizing.optimizers import KNN_FEW_SHOT
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.execution import CallOptions, MetricChoice, read_metric
from erlport_bridge.programs.models import LanguageModel, ModelAccount
from erlport_bridge.programs.modules import Vectors, retrieval
from erlport_bridge.programs.pipelines import HISTORY_FIELD, Learned
from erlport_bridge.programs.sessions import Neighbours, Program, text_of_inputs
from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.values import plain
from erlport_bridge.request import within_time

# Options that are needed only until the embeddings of the examples are known.
_AT_COMPILING: Final = ("vectors", "embedder")
_KEYS: Final = frozenset({"examples", "vectors", "options", "metric", "embedder"})


async def remember(compilation: Compilation, metric: MetricChoice | None) -> tuple[Neighbours, dict[str, Any]]:
    """Compile a program: compute the embeddings of the examples, and keep both.

    Args:
        compilation: The program, the optimizer's options and the examples.
        metric: The metric as the caller chose it.

    Returns:
        The examples with their embeddings, and a report as a term.

    Raises:
        OperationError: Of kind ``input``: the metric is a function of Elixir, which would have to outlive its call; or
            the given vectors do not fit the examples. Of kind ``tool``: the embedder failed.
    """
    started_at = time.monotonic()
    given_metric = None if metric is None else metric.given
    _refuse_function(given_metric, "opts.metric")
    options = dict(compilation.options)
    examples = tuple(_terms(example) for example in compilation.trainset)
    texts = [text_of_inputs(compilation.program.asked, example) for example in examples]
    given, embedder = (options.pop(name) for name in _AT_COMPILING)
    if given is None and embedder is None:
        message = f"{KNN_FEW_SHOT.name} needs embedder, a function that gives vectors of texts, or the vectors of the"
        raise OperationError("input", f"{message} examples, at opts", path="opts.embedder")
    vectors = await Vectors(texts, given, embedder).all()
    exported = None if embedder is None or embedder.exported is None else embedder.exported.partition(":")[2]
    found = Neighbours(examples, tuple(vectors), options, _kept(plain(given_metric)), exported)
    report: dict[str, Any] = {
        "optimizer": KNN_FEW_SHOT.name,
        "score": None,
        "candidates": [],
        "metric_calls": 0,
        "failures": 0,
        "demos": {},
        "cost": None,
        "cache_hits": 0,
        "duration_ms": (time.monotonic() - started_at) * 1000,
        "warnings": [],
    }
    return found, report


async def learned_for(
    program: Program,
    neighbours: Neighbours,
    values: Mapping[str, Any],
    model: LanguageModel,
    options: CallOptions,
    *,
    timeout_s: float | None,
    account: ModelAccount,
) -> tuple[Learned, dict[str, Any]]:
    """Return what a program learns for one call, and the usage of that learning, by model, as DSPy counts it.

    Raises:
        OperationError: As :meth:`Neighbours.nearest` and :func:`.compiling.run`. Of kind ``timeout``: the embedder did
            not answer in time.
    """
    started_at = time.monotonic()
    try:
        near = await within_time(neighbours.nearest(program.asked, values, options), timeout_s)
    except asyncio.TimeoutError:
        message = "the embedder has not answered within the time of the call"
        raise OperationError("timeout", message, stage="embedder") from None
    left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started_at))
    compilation = Compilation(
        replace(program, neighbours=None),
        KNN_FEW_SHOT,
        neighbours.options,
        compiling.read_examples(near, program, "neighbours.examples"),
        None,
        _metric(neighbours.metric, "neighbours.metric", program),
    )
    with dspy.track_usage() as usage:
        learned, _ = await compiling.run(
            compilation, model, options, timeout_s=left_s, account=account, tell=_tell_nobody, is_counted=False
        )
    return learned, usage.get_total_tokens()


def read(value: object, program: Program) -> Neighbours:
    """Read a term that :meth:`Neighbours.describe` returned, for a program.

    Raises:
        OperationError: Of kind ``input``, with the path of the invalid element.
    """
    given = arguments.options(value, "neighbours")
    arguments.only(given, _KEYS, "key", "neighbours")
    options = arguments.options(given.get("options"), "neighbours.options")
    kept = {option.name for option in KNN_FEW_SHOT.options} - set(_AT_COMPILING)
    arguments.only(options, kept, "option", "neighbours.options")
    path = "neighbours.options"
    read = KNN_FEW_SHOT.complete(KNN_FEW_SHOT.vocabulary.read(options, path), path)
    examples = compiling.read_examples(given.get("examples"), program, "neighbours.examples")
    vectors = retrieval.read_vectors(given.get("vectors"), "neighbours.vectors")
    if len(vectors) != len(examples):
        message = f"expected {len(examples)} vectors at neighbours.vectors, one for each example, got {len(vectors)}"
        raise OperationError("input", message, path="neighbours.vectors")
    _refuse_function(given.get("metric"), "neighbours.metric")
    _metric(given.get("metric"), "neighbours.metric", program)
    chosen = {name: option for name, option in read.items() if name in kept}
    embedder = given.get("embedder")
    if embedder is not None:
        embedder = callbacks.exported_text(embedder, "neighbours.embedder")
    return Neighbours(tuple(map(_terms, examples)), tuple(vectors), chosen, given.get("metric"), embedder)


def _terms(example: dspy.Example) -> dict[str, Any]:
    return {name: plain(value) for name, value in example.items() if name != HISTORY_FIELD}


def _metric(value: object, path: str, program: Program) -> Any:
    return None if value is None else read_metric(value, path).of(program.asked)


def _refuse_function(metric: object, path: str) -> None:
    if isinstance(metric, Mapping) and "callback" in metric and callbacks.EXPORTED not in metric:
        message = f"expected the name of a metric or a check at {path}: {KNN_FEW_SHOT.name} scores at each call"
        raise OperationError(
            "input", f"{message}, and a function of Elixir ends with the call that brings it", path=path
        )


def _kept(metric: Any) -> Any:
    """Return a metric without the id that ends with the call: an exported function is found by its text."""
    return {name: value for name, value in metric.items() if name != "callback"} if isinstance(metric, dict) else metric


async def _tell_nobody(event: Mapping[str, Any]) -> None:
    """Ignore an event: a compilation for one call has no reader."""
