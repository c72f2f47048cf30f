"""How well a program does on examples: the score of each prediction, and of all together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments
from erlport_bridge.programs.execution import META, total_tokens
from erlport_bridge.programs.rewards import Reward, read_reward
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.term.inspecting import shown


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a program.

    Attributes:
        metric: Gives the score of a prediction, for its example.
        failure_score: The score of an example that has none, since its call or its metric failed.
    """

    metric: Reward
    failure_score: float
    started_at: float = field(default_factory=time.monotonic)

    async def scored(self, example: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Give a prediction, as a term, with its score."""
        fields = {name: value for name, value in prediction.items() if name != META}
        score = await self.metric.score(example, dspy.Prediction(**fields))
        return {"prediction": prediction, "score": score}

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
            "total_tokens": sum(total_tokens(answer["prediction"]) for answer in done),
            "duration_ms": (time.monotonic() - self.started_at) * 1000,
            "results": list(answers),
        }


def read_evaluation(metric: object, failure_score: object) -> Evaluation:
    """Read the options of an evaluation.

    Raises:
        OperationError: Of kind ``input``: ``opts.metric`` or ``opts.failure_score``.
    """
    if metric is None:
        raise OperationError(
            "input",
            "expected a function or a check at opts.metric, such as "
            '%{check: "equals", field: "answer", input: "expected"}',
            path="opts.metric",
        )
    if isinstance(failure_score, bool) or not isinstance(failure_score, int | float):
        raise OperationError(
            "input", f"expected a number at opts.failure_score, got {shown(failure_score)}", path="opts.failure_score"
        )
    return Evaluation(read_reward(metric, "opts.metric"), float(failure_score))


def inputs_of(spec: SignatureSpec, example: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the inputs of a program that an example has, and the whole example, with strings as keys.

    Raises:
        OperationError: Of kind ``input``: it is no map.
    """
    given = arguments.options(example, "example")
    names = {item.name for item in spec.inputs}
    return {name: value for name, value in given.items() if name in names}, given
