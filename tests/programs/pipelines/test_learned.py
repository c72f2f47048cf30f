"""What a program has learned: its predictors, by the names of their stages."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.pipelines import learned
from erlport_bridge.programs.pipelines.pipeline import Pipeline
from erlport_bridge.programs.pipelines.program_spec import read_stages
from erlport_bridge.programs.pipelines.voting import Voting
from erlport_bridge.programs.signatures.spec import parse_signature

QA = parse_signature("question -> answer")
REWARD = {"check": "length", "field": "answer", "minimum": 1}
SPEC = [
    {"module": "dspy.ChainOfThought", "name": "draft"},
    "dspy.Predict",
    {"module": "dspy.ReAct", "name": "search"},
    {
        "module": "dspy.BestOfN",
        "name": "best",
        "of": "dspy.ChainOfThought",
        "reward": REWARD,
    },
    {"module": "dspy.Predict", "name": "modules"},
]
NAMES = ["draft.predict", "modules[1]", "search.react", "search.extract.predict", "best.module.predict", "modules"]
PLACES = [
    *("modules[0].predict", "modules[1]", "modules[2].react", "modules[2].extract.predict"),
    *("modules[3].module.predict", "modules[4]"),
]


def program_of(members: int) -> Pipeline:
    stages, _ = read_stages(SPEC, QA)
    return Voting(stages, None, members) if members else Pipeline(stages)


def learned_by(names: list[str]) -> dict[str, Any]:
    return {name: {"instructions": f"Task {number}", "demos": []} for number, name in enumerate(names)}


def in_members(names: list[str], members: int) -> list[str]:
    return [f"members[{number}].{name}" for number in range(members) for name in names] if members else names


@pytest.mark.parametrize("members", [0, 2])
def test_predictors_of_a_named_stage_have_its_name(members: int) -> None:
    found = learned.learned_of(program_of(members))
    assert list(found) == in_members(NAMES, members)


@pytest.mark.parametrize("members", [0, 2])
def test_a_text_that_names_places_is_read(members: int) -> None:
    program = program_of(members)
    names, places = in_members(NAMES, members), in_members(PLACES, members)
    by_place = learned.read(learned_by(places), program, "learned")
    assert by_place == learned.read(learned_by(names), program, "learned")
    learned.teach(program, by_place)
    tasks = {name: known.instructions for name, known in learned.learned_of(program).items()}
    assert tasks == {name: f"Task {number}" for number, name in enumerate(names)}


def test_a_predictor_that_is_given_by_name_and_by_place_is_refused() -> None:
    with pytest.raises(OperationError, match=r'"draft.predict" once at learned, got it as "modules\[0\].predict" too'):
        learned.read(learned_by(["draft.predict", "modules[0].predict"]), program_of(0), "learned")


def test_what_was_learned_stays_with_a_named_stage_that_moves() -> None:
    stages, _ = read_stages(SPEC[:1], QA)
    before = learned.read(learned_by(["draft.predict"]), Pipeline(stages), "learned")
    moved, _ = read_stages(["dspy.Predict", *SPEC[:1]], QA)
    program = Pipeline(moved)
    learned.teach(program, before)
    assert learned.learned_of(program)["draft.predict"].instructions == "Task 0"
