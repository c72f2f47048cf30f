"""How well a program does on examples: the score of each prediction, and of all together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution.metrics import read_metric
from erlport_bridge.programs.execution.running import META, total_tokens
from erlport_bridge.programs.models import ModelAccount
from erlport_bridge.programs.modules import Reward
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import shown


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a program.

    Attributes:
        metric: Gives the score of a prediction, for its example.
        failure_score: The score of an example that has none, since its call or its metric failed.
        judging: Of what the metric asks of models.
    """

    metric: Reward
    failure_score: float
    started_at: float = field(default_factory=time.monotonic)
    judging: ModelAccount = field(default_factory=ModelAccount)

    async def scored(
        self, example: Mapping[str, Any], prediction: Mapping[str, Any], timeout_s: float | None
    ) -> dict[str, Any]:
        """Give a prediction, as a term, with its score.

        Raises:
            OperationError: Of kind ``timeout``: there is none within ``timeout_s`` seconds; or that of the metric.
        """
        fields = {name: value for name, value in prediction.items() if name != META}
        self.judging.follow()
        try:
            judged = await asyncio.wait_for(self.metric.judge(example, dspy.Prediction(**fields)), timeout_s)
        except asyncio.TimeoutError:
            message = "the metric has not answered within the time of its example"
            raise OperationError("timeout", message, stage="metric") from None
        feedback = {} if judged.feedback is None else {"feedback": judged.feedback}
        return {"prediction": prediction, "score": judged.score, **feedback}

    def report(self, answers: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
        """Give the result of all.

        Returns:
            ``score`` (0 to 100 where each is 0 to 1; ``None`` without an example), ``count``, ``failed`` (how many have
            no score of their own), ``total_tokens``, ``duration_ms``, and ``results``, the answers in order.
        """
        done = [answer for status, answer in answers if status == "ok"]
        failed = len(answers) - len(done)
        total = sum(answer["score"] for answer in done) + failed * self.failure_score
        return {
            "score": 100 * total / len(answers) if answers else None,
            "count": len(answers),
            "failed": failed,
            "total_tokens": self.judging.spent.tokens + sum(total_tokens(answer["prediction"]) for answer in done),
            "duration_ms": (time.monotonic() - self.started_at) * 1000,
            "results": list(answers),
        }


def read_evaluation(metric: object, failure_score: object, program: SignatureSpec) -> Evaluation:
    """Read the options of an evaluation of a program with this signature.

    Raises:
        OperationError: Of kind ``input``: ``opts.metric`` or ``opts.failure_score``.
    """
    if isinstance(failure_score, bool) or not isinstance(failure_score, int | float):
        raise OperationError(
            "input", f"expected a number at opts.failure_score, got {shown(failure_score)}", path="opts.failure_score"
        )
    return Evaluation(read_metric(metric, "opts.metric", program), float(failure_score))


def inputs_of(spec: SignatureSpec, example: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the inputs of a program that an example has, and the whole example, with strings as keys.

    Raises:
        OperationError: Of kind ``input``: it is no map.
    """
    given = arguments.options(example, "example")
    names = {item.name for item in spec.inputs}
    return {name: value for name, value in given.items() if name in names}, given
