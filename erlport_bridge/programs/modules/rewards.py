"""Rate a prediction by a number, its reward: a function of Elixir, or a check that runs here.

A check is a map ``%{check: …, field: …}``; the reward of most checks is 1.0 or 0.0::

    %{check: "equals", field: "answer", value: "Lisbon"}      %{check: "equals", field: "answer", input: "expected"}
    %{check: "contains", field: "answer", value: "Lisbon"}
    %{check: "length", field: "answer", minimum: 1, maximum: 80}      characters of text, items of a list
    %{check: "words", field: "answer", maximum: 1}

``exact_match`` and ``f1`` are SQuAD's metrics, which ignore articles and punctuation; ``f1`` compares words, and its
reward may be any number from 0.0 to 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Final, Protocol

import dspy
from dspy.evaluate.metrics import EM, F1

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.modules import equality
from erlport_bridge.programs.text import arguments, text_of
from erlport_bridge.programs.values import plain
from erlport_bridge.request import weight
from erlport_bridge.term import OtpErlangFunction, shown
from erlport_bridge.tracing import span

_CHECKS: Final = ("equals", "contains", "exact_match", "f1", "length", "words")
_FUNCTION_KEYS: Final = frozenset({"callback", callbacks.EXPORTED, "description", "arity"})
# A function takes inputs and prediction; a metric may take trace, pred_name and pred_trace too.
_LEAST_ARITY: Final = 2
_MOST_ARITY: Final = 5
_COMPARED: Final = frozenset({"check", "field", "value", "input"})
# Checks that compare the field with another value, each with its verb in a sentence.
_COMPARING: Final[Mapping[str, str]] = {
    "equals": "equals",
    "contains": "contains",
    "exact_match": "matches",
    "f1": "is like",
}
_COUNTED: Final = frozenset({"check", "field", "minimum", "maximum"})
_UNKNOWN_CODE: Final = "a function of the calling application, whose code cannot be shown"


@dataclass(frozen=True)
class Judgement:
    """A score, and optionally feedback for the model that has to improve."""

    score: float
    feedback: str | None = None


@dataclass(frozen=True)
class Traced:
    """What an optimizer knows of a run beside its prediction, as DSPy gives it to metrics.

    Attributes:
        trace: What each predictor was asked and has answered: predictor, inputs, outputs; ``None``: not known.
        pred_name: The predictor that feedback is wanted for; ``None``: feedback for the program.
        pred_trace: The trace of that predictor alone.
        name_of: Gives the name of a predictor.
    """

    trace: Any = None
    pred_name: str | None = None
    pred_trace: Any = None
    name_of: Callable[[Any], str | None] = lambda predictor: None

    def terms(self) -> dict[str, Any]:
        """Return it as terms, by the names of a metric's arguments."""
        return {
            "trace": self._steps(self.trace, "trace"),
            "pred_name": self.pred_name,
            "pred_trace": self._steps(self.pred_trace, "pred_trace"),
        }

    def _steps(self, trace: Any, path: str) -> list[dict[str, Any]] | None:
        if trace is None:
            return None
        return [
            {
                "predictor": self.name_of(predictor),
                "inputs": plain(dict(inputs), f"{path}[{index}].inputs"),
                "outputs": plain(dict(outputs.items()), f"{path}[{index}].outputs"),
            }
            for index, (predictor, inputs, outputs) in enumerate(trace)
        ]


class Reward(Protocol):
    """A rating of predictions."""

    @property
    def name(self) -> str:
        """What it is called in a trace."""

    @property
    def code(self) -> str:
        """A description of the reward, for a model that gives advice."""

    @property
    def field(self) -> str | None:
        """The one field of the prediction that it rates; ``None``: it is given them all."""

    @property
    def compared(self) -> tuple[str, ...]:
        """The inputs, or fields of the example, that it compares a prediction with."""

    async def judge(
        self, inputs: Mapping[str, Any], prediction: dspy.Prediction, traced: Traced | None = None
    ) -> Judgement:
        """Return the reward of a prediction for these inputs; higher is better.

        Raises:
            OperationError: The reward cannot be computed.
        """


async def rated(
    kind: str,
    reward: Reward,
    inputs: Mapping[str, Any],
    prediction: dspy.Prediction,
    traced: Traced | None = None,
) -> Judgement:
    """Return the reward of a prediction, and record how it was computed: as a ``reward`` or as a ``metric``."""
    with span(kind, reward.name) as recorded:
        judged = await reward.judge(inputs, prediction, traced)
        if recorded is not None:
            recorded.set(score=judged.score)
        return judged


@dataclass(frozen=True)
class ElixirReward:
    """A reward or metric that a function of Elixir computes; ``role`` is which of the two."""

    function: ElixirFunction
    description: str | None = None
    arity: int = 2
    name: str = "function"
    role: str = "reward"
    field: None = None
    compared: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The caller's description of the function."""
        return self.description or _UNKNOWN_CODE

    async def judge(
        self, inputs: Mapping[str, Any], prediction: dspy.Prediction, traced: Traced | None = None
    ) -> Judgement:
        """Call the function.

        Raises:
            OperationError: Of kind ``tool``: the function failed, or returned no number.
        """
        place = self.function.place
        given = {"inputs": plain(dict(inputs), "inputs"), "prediction": plain(dict(prediction.items()), "prediction")}
        if self.arity > _LEAST_ARITY:
            given |= (traced or Traced()).terms()
        try:
            reward = await self.function.call(given)
        except OperationError as error:
            message = f"the function at {place} failed: {error.message}"
            raise OperationError("tool", message, path=place, stage=self.role) from error
        judged = dict(reward) if isinstance(reward, Mapping) and "score" in reward else {"score": reward}
        score, feedback = judged.get("score"), text_of(judged.get("feedback"))
        if isinstance(score, int | float) and arguments.is_number(score + 0):  # a boolean is an int too
            return Judgement(float(score), feedback)
        message = f"expected a number, or a map with score and feedback, from the function at {place}"
        raise OperationError("tool", f"{message}, got {shown(reward)}", path=place, stage=self.role)


@dataclass(frozen=True)
class Check:
    """A check of one field of a prediction."""

    name: str
    field: str
    value: Any = None
    input: str | None = None
    minimum: int = 0
    maximum: int | None = None
    # To Python True is 1, and checks that are equal make modules that calls share.
    is_boolean: bool = False

    @property
    def compared(self) -> tuple[str, ...]:
        """The input, or field of the example, that the field is compared with."""
        return () if self.input is None else (self.input,)

    @property
    def code(self) -> str:
        """The check as a sentence."""
        if self.name in _COMPARING:
            other = f"the input `{self.input}`" if self.input else shown(self.value)
            if self.name == "f1":
                return f"the F1 of the words of the field `{self.field}` and of {other}"
            return f"1.0 if the field `{self.field}` {_COMPARING[self.name]} {other}, without regard to case, else 0.0"
        most = "" if self.maximum is None else f" and at most {self.maximum}"
        unit = "words" if self.name == "words" else "characters or items"
        return f"1.0 if the field `{self.field}` has at least {self.minimum}{most} {unit}, else 0.0"

    async def judge(
        self, inputs: Mapping[str, Any], prediction: dspy.Prediction, traced: Traced | None = None
    ) -> Judgement:
        """Check the prediction.

        Raises:
            OperationError: Of kind ``input``: the prediction has no such field, or the call no such input.
        """
        found = entry(dict(prediction.items()), self.field, "field of the prediction")
        other = self.value if self.input is None else entry(inputs, self.input, "input")
        return Judgement(await weight.aside(self._compared, found, other, heavy=weight.is_heavy(found, other)))

    def _compared(self, found: Any, other: Any) -> float:
        # As terms: an object is a map, whoever made it.
        return float(_RUN[self.name](self, plain(found), plain(other)))


def entry(entries: Mapping[str, Any], name: str, what: str) -> Any:
    """Return a field that a reward needs.

    Raises:
        OperationError: Of kind ``input``: there is no field of this name.
    """
    if name not in entries:
        raise arguments.unknown(what, name, list(entries), "reward", "reward")
    return entries[name]


def _normal(value: Any) -> Any:
    return " ".join(value.split()).casefold() if isinstance(value, str) else value


def _same_text(found: str, other: str) -> bool:
    return bool(_normal(found) == _normal(other))


def _same_answer(found: str, other: str) -> bool:
    return bool(EM(found, [other]))


def _equals(check: Check, found: Any, other: Any) -> bool:
    return equality.equal(found, other, _same_text)


def _contains(check: Check, found: Any, other: Any) -> bool:
    if equality.equal(found, other, _same_text):
        return True
    if isinstance(found, str):
        if isinstance(other, str):
            return _normal(other) in _normal(found)
        if other is not None and (equality.is_several(other) or isinstance(other, Mapping)):
            raise _not_compared(check, found, other)
        return equality.is_within(other, found)
    if equality.is_several(found):
        wanted = list(other) if equality.is_several(other) else [other]
        return equality.matching(list(found), wanted, _same_text) == len(wanted)
    if isinstance(found, Mapping):
        raise _not_compared(check, found, other)
    return False


def _exact_match(check: Check, found: Any, other: Any) -> bool:
    if equality.is_several(other) and not (equality.is_several(found) or isinstance(found, Mapping)):
        # As for DSPy, several right answers.
        return any(equality.equal(found, item, _same_answer) for item in other)
    return equality.equal(found, other, _same_answer)


def _f1(check: Check, found: Any, other: Any) -> float:
    if equality.equal(found, other, _same_answer):
        return 1.0
    if isinstance(found, str) and isinstance(other, str):
        return float(F1(found, [other]))
    if isinstance(found, Mapping) or isinstance(other, Mapping):
        raise _not_compared(check, found, other)
    if equality.is_several(found) and equality.is_several(other):
        same = equality.matching(list(found), list(other), _same_answer)
        return 2 * same / (len(found) + len(other))
    if equality.is_several(other):  # as for DSPy, several right answers
        return max((_f1(check, found, item) for item in other), default=0.0)
    return 0.0


def _not_compared(check: Check, found: Any, other: Any) -> OperationError:
    message = f"{check.name} does not compare {shown(found)} (the field {check.field}) with {shown(other)}"
    return OperationError("input", f"{message}; use equals, or a function", path="metric")


def _length(check: Check, found: Any, other: Any) -> bool:
    return isinstance(found, Sized) and _is_within(check, len(found))


def _words(check: Check, found: Any, other: Any) -> bool:
    return isinstance(found, str) and _is_within(check, len(found.split()))


def _is_within(check: Check, count: int) -> bool:
    return check.minimum <= count and (check.maximum is None or count <= check.maximum)


_RUN: Final[Mapping[str, Callable[[Check, Any, Any], float]]] = {
    "equals": _equals,
    "contains": _contains,
    "exact_match": _exact_match,
    "f1": _f1,
    "length": _length,
    "words": _words,
}


def read_reward(value: object, path: str, role: str = "reward") -> ElixirReward | Check:
    """Read a reward: a function of Elixir, or a check.

    Args:
        value: ``%{callback: id, description: text}`` for a function, or a check as above.
        path: Where the reward stands in the call, for errors.
        role: Whether it is a reward or a metric.

    Raises:
        OperationError: Of kind ``input``, with the path of the invalid element.
    """
    if isinstance(value, OtpErlangFunction):
        raise callbacks.refuse(path)
    if not isinstance(value, Mapping | list):
        raise _expected('a function or a check such as %{check: "equals", …}', value, path)
    given = arguments.options(value, path)
    if "callback" in given or callbacks.EXPORTED in given:
        arguments.only(given, _FUNCTION_KEYS, "key of a reward", path)
        description = arguments.optional_text(given.get("description"), f"{path}.description")
        arity = given.get("arity", _LEAST_ARITY)
        if type(arity) is not int or not _LEAST_ARITY <= arity <= _MOST_ARITY:
            raise _expected(f"a number of arguments from {_LEAST_ARITY} to {_MOST_ARITY}", arity, f"{path}.arity")
        return ElixirReward(callbacks.read(path, given, role), description, arity, role=role)
    if "check" not in given or "field" not in given:
        # What is missing may be misspelt.
        arguments.only(given, _COMPARED | _COUNTED, "key of a check", path)
    if not given:
        raise _expected('a function or a check such as %{check: "equals", …}', value, path)
    name = arguments.text(given.get("check"), f"{path}.check", NAME_BYTES)
    if name not in _CHECKS:
        raise arguments.unknown("check", name, _CHECKS, f"{path}.check")
    field = arguments.text(given.get("field"), f"{path}.field", NAME_BYTES)
    if name in ("length", "words"):
        arguments.only(given, _COUNTED, f'key of the check "{name}"', path)
        minimum = _count(given.get("minimum", 0), f"{path}.minimum")
        maximum = None if given.get("maximum") is None else _count(given["maximum"], f"{path}.maximum")
        return Check(name, field, minimum=minimum, maximum=maximum)
    arguments.only(given, _COMPARED, f'key of the check "{name}"', path)
    if ("value" in given) is ("input" in given):
        raise _expected("either value or input, what it is compared with,", list(given), path)
    if "input" in given:
        return Check(name, field, input=arguments.text(given["input"], f"{path}.input", NAME_BYTES))
    compared = given["value"]
    if not isinstance(compared, str | int | float | None):
        raise _expected("text, a number, a boolean or nil", compared, f"{path}.value")
    return Check(name, field, value=compared, is_boolean=isinstance(compared, bool))


def _count(value: object, path: str) -> int:
    if type(value) is int and value >= 0:
        return value
    raise _expected("an integer that is not negative", value, path)


def _expected(what: str, value: object, path: str) -> OperationError:
    return OperationError("input", f"expected {what} at {path}, got {shown(value)}", path=path)
