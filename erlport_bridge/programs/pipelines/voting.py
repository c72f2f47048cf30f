"""Several versions of one program that vote, as ``dspy.Ensemble`` with ``dspy.majority`` has them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

import dspy
from dspy.evaluate.metrics import normalize_text

from erlport_bridge.programs.pipelines.pipeline import Pipeline
from erlport_bridge.programs.pipelines.stages import Source, Stage

# Python reads no number of thousands of digits.
_MEMBER: Final = re.compile(r"members\[(\d{1,6})\]\.")


class Voting(Pipeline):
    """Runs all its members at the same time; the answer that most of them gave is its own.

    Args:
        stages: Those of each member.
        outputs: Those of each member.
        count: How many members.
    """

    def __init__(self, stages: Sequence[Stage], outputs: Sequence[tuple[str, Source]] | None, count: int) -> None:
        # It has no stages itself: what a member writes may not be what is answered, so no piece of it is told.
        super().__init__((), outputs)
        self.members = [Pipeline(stages, outputs) for _ in range(count)]

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Give the first of the predictions whose last field has the value that most have."""
        predictions = await asyncio.gather(*(member.acall(**inputs) for member in self.members))
        votes = [_vote(prediction) for prediction in predictions]
        # Of as many votes, the first.
        (chosen, _count), *_rest = Counter(votes).most_common(1)
        return predictions[votes.index(chosen)]


def count_members(predictors: Collection[object]) -> int:
    """Give how many members have predictors of these names; 0: they are those of a program by itself."""
    found = [_MEMBER.match(name) for name in predictors if isinstance(name, str)]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _vote(prediction: dspy.Prediction) -> str:
    *_, value = prediction.values()
    return normalize_text(value) if isinstance(value, str) else repr(value)
