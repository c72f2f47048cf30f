"""Score a program's predictions for examples, one by one and all together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import dspy

from erlport_bridge.counting import Spent
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution.batch import BATCH_OPTIONS
from erlport_bridge.programs.execution.metrics import METRIC, read_metric
from erlport_bridge.programs.execution.prediction_terms import META
from erlport_bridge.programs.modules import Reward, rated
from erlport_bridge.programs.options import NumberOption, Vocabulary
from erlport_bridge.programs.pipelines import Stage
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.values import require_compared, require_inputs
from erlport_bridge.request import within_time

#: The options of an evaluation besides the options of its calls.
EVALUATION_OPTIONS: Final = BATCH_OPTIONS | Vocabulary(
    METRIC,
    NumberOption(
        name="failure_score", default=0.0, description="the score of an example whose call or metric has failed"
    ),
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a program.

    Attributes:
        metric: Scores a prediction for its example.
        failure_score: The score of an example whose call or metric failed.
        judging: The tokens and cost of the metric's own model calls.
    """

    metric: Reward
    failure_score: float
    started_at: float = field(default_factory=time.monotonic)
    judging: Spent = field(default_factory=Spent)

    @classmethod
    def of(cls, given: Mapping[str, Any], program: SignatureSpec, fields: Collection[str]) -> Evaluation:
        """Return an evaluation of a program, from the caller's values for :data:`EVALUATION_OPTIONS`.

        Args:
            given: The values.
            program: The signature of the program.
            fields: The fields of its predictions; empty: they are not known.

        Raises:
            OperationError: Of kind ``input``: ``opts.metric`` is missing or invalid, or names a field that no
                prediction has.
        """
        read = EVALUATION_OPTIONS.with_defaults(given)
        metric = read["metric"] or read_metric(None, "opts.metric")
        return cls(metric.of(program, fields), read["failure_score"])

    def require(self, example: Mapping[str, Any], path: str) -> None:
        """Check that an example has what the metric compares, before a model is paid for its prediction.

        Raises:
            OperationError: Of kind ``input``: a field is missing.
        """
        require_compared(self.metric.compared, example, path)

    async def scored(
        self, example: Mapping[str, Any], prediction: Mapping[str, Any], timeout_s: float | None
    ) -> dict[str, Any]:
        """Return the score of a prediction, beside the prediction's term.

        Raises:
            OperationError: Of kind ``timeout``: the metric took longer than ``timeout_s`` seconds. Any other kind: the
                metric's own error.
        """
        fields = {name: value for name, value in prediction.items() if name != META}
        try:
            work = rated("metric", self.metric, example, dspy.Prediction(**fields))
            judged = await within_time(work, timeout_s)
        except asyncio.TimeoutError:
            message = "the metric has not answered within the time of its example"
            raise OperationError("timeout", message, stage="metric") from None
        feedback = {} if judged.feedback is None else {"feedback": judged.feedback}
        return {"prediction": prediction, "score": judged.score, **feedback}

    def report(self, answers: Sequence[tuple[Any, ...]], tokens: int, warnings: Sequence[str] = ()) -> dict[str, Any]:
        """Return the result of the evaluation as a term.

        Args:
            answers: The answers for the examples, in order.
            tokens: The tokens of all model calls, also of examples that failed.
            warnings: One sentence for each ignored option.

        Returns:
            ``score`` (0 to 100 if each score is 0 to 1; ``None`` without an example), ``count``, ``failed`` (how many
            examples have the failure score), ``total_tokens``, ``metric_tokens`` (those among them that the metric's
            own requests took), ``duration_ms``, ``warnings`` (of the options, about scores, and about examples that
            failed), and ``results``, the answers in order.
        """
        done = [answer for status, answer, *_ in answers if status == "ok"]
        failed = len(answers) - len(done)
        total = sum(answer["score"] for answer in done) + failed * self.failure_score
        return {
            "score": 100 * total / len(answers) if answers else None,
            "count": len(answers),
            "failed": failed,
            "total_tokens": tokens,
            "metric_tokens": self.judging.tokens,
            "duration_ms": (time.monotonic() - self.started_at) * 1000,
            "warnings": [*warnings, *_beyond(answers), *_failures(answers, failed)],
            "results": list(answers),
        }


def _beyond(answers: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """Yield a sentence if scores are not from 0 to 1; `spread_program.ex` words it too, as :func:`_failures`."""
    found = [
        index for index, (status, answer, *_) in enumerate(answers) if status == "ok" and not 0 <= answer["score"] <= 1
    ]
    if found:
        yield (
            f"{len(found)} of {len(answers)} scores are not from 0 to 1, the first one that of examples[{found[0]}], "
            "so that the score is no percentage"
        )


def _failures(answers: Sequence[tuple[Any, ...]], failed: int) -> Iterator[str]:
    """Yield a sentence if examples failed; `mix_stub/lib/dspex/python/call/spread_program.ex` words it too."""
    for index, (status, reason, *_) in enumerate(answers):
        if status != "ok":
            _, details = reason
            message = details["message"].partition("\n")[0]
            yield f"{failed} of {len(answers)} examples failed; the first one, examples[{index}]: {message}"
            return


def inputs_of(
    stages: Sequence[Stage], spec: SignatureSpec, example: object, path: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of an example that are inputs of the program, and all its fields, with strings as keys.

    Raises:
        OperationError: Of kind ``input``: the example is not a map, or lacks an input.
    """
    given = arguments.options(example, path)
    require_inputs(spec, given, path)
    names = {item.name for item in spec.inputs}.union(*(stage.optional_inputs for stage in stages))
    return {name: value for name, value in given.items() if name in names}, given
