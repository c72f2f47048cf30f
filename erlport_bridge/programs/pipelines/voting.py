"""Run several versions of one program and let them vote, as ``dspy.Ensemble`` with ``dspy.majority`` does."""

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

# The limit keeps int() away from thousands of digits, which Python refuses to read.
_MEMBER: Final = re.compile(r"members\[(\d{1,6})\]\.")


class Voting(Pipeline):
    """A program of several members, which run concurrently; its answer is the one that most members gave.

    Args:
        stages: The stages of each member.
        outputs: The outputs of each member.
        count: The number of members.
    """

    def __init__(self, stages: Sequence[Stage], outputs: Sequence[tuple[str, Source]] | None, count: int) -> None:
        # No stages of its own: a stream must not send the text of a member, which may not become the answer.
        super().__init__((), outputs)
        self.members = [Pipeline(stages, outputs) for _ in range(count)]

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Return the first prediction whose last field has the most frequent value."""
        predictions = await asyncio.gather(*(member.acall(**inputs) for member in self.members))
        votes = [_vote(prediction) for prediction in predictions]
        # The first value wins a tie.
        (chosen, _count), *_rest = Counter(votes).most_common(1)
        return predictions[votes.index(chosen)]

    def names_by_place(self) -> dict[str, str]:
        """Return the names of the members' parameters by the names that DSPy gives them."""
        return {
            f"members[{number}].{place}": f"members[{number}].{name}"
            for number, member in enumerate(self.members)
            for place, name in member.names_by_place().items()
        }


def count_members(predictors: Collection[object]) -> int:
    """Count the members that predictors of these names belong to; 0: they belong to a program that does not vote."""
    found = [_MEMBER.match(name) for name in predictors if isinstance(name, str)]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _vote(prediction: dspy.Prediction) -> str:
    *_, value = prediction.values()
    return normalize_text(value) if isinstance(value, str) else repr(value)
