"""Read metrics, which rate a prediction for an example: a reward, or a metric with a name.

A named metric compares the first output of the program with the field of that name in the example.
``%{check: name, field: …, input: …}`` compares other fields.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy.evaluate.auto_evaluation import SemanticF1 as DspySemanticF1

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.programs.modules import Judgement, Reward, Traced, entry, read_reward
from erlport_bridge.programs.options import Option
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments, text_of
from erlport_bridge.programs.values import plain

_COMPARED: Final = ("exact_match", "f1", "contains", "equals")
_SEMANTIC: Final = "semantic_f1"
#: The names of metrics.
NAMES: Final = (*_COMPARED, _SEMANTIC)

_judge = DspySemanticF1()


@dataclass(frozen=True)
class SemanticF1:
    """The F1 of recall and precision between the answer and the example's answer, as a model judges them.

    Attributes:
        question: The input that contains the question.
        field: The output that contains the answer.
        expected: The field of the example that contains the right answer.
    """

    question: str
    field: str
    expected: str
    name: str = _SEMANTIC
    code: str = "the F1 of the answer's recall and precision, as a model judges them"

    @property
    def compared(self) -> tuple[str, ...]:
        """The fields of the example that the model is shown."""
        return self.question, self.expected

    async def judge(
        self, inputs: Mapping[str, Any], prediction: dspy.Prediction, traced: Traced | None = None
    ) -> Judgement:
        """Call the model and compute the F1.

        Raises:
            OperationError: Of kind ``input``: the example or the prediction lacks one of the three fields.
        """
        judged = await _judge.module.acall(
            question=entry(inputs, self.question, "input"),
            ground_truth=entry(inputs, self.expected, "field of the example"),
            system_response=entry(dict(prediction.items()), self.field, "field of the prediction"),
        )
        recall, precision = (min(1.0, max(0.0, float(value))) for value in (judged.recall, judged.precision))
        total = recall + precision
        return Judgement(2 * recall * precision / total if total else 0.0)


@dataclass(frozen=True)
class _OnlyShared:
    """A named metric for a program that declares no outputs: of the one field that prediction and example share."""

    name: str
    inputs: frozenset[str]
    path: str
    code: str = "a comparison with the right answer"
    field: None = None
    compared: tuple[str, ...] = ()

    async def judge(
        self, inputs: Mapping[str, Any], prediction: dspy.Prediction, traced: Traced | None = None
    ) -> Judgement:
        """Compare the field.

        Raises:
            OperationError: Of kind ``input``: no field is shared, or several are.
        """
        shared = [name for name, _ in prediction.items() if name in inputs and name not in self.inputs]
        if len(shared) != 1:
            check = f'%{{check: "{self.name}", field: "answer", input: "answer"}}'
            message = f"the program declares no outputs, and its prediction shares {', '.join(shared) or 'no field'} "
            message += f"with the example; name the field at {self.path}, such as {check}"
            raise OperationError("input", message, path=self.path)
        (field,) = shared
        check_of = read_reward({"check": self.name, "field": field, "input": field}, self.path)
        return await check_of.judge(inputs, prediction)


@dataclass(frozen=True)
class MetricChoice:
    """A metric as a caller chose it; the fields that a named metric compares depend on the scored program.

    Attributes:
        given: The metric as the caller wrote it.
        path: Where it stands in the call, for errors.
        reward: The function or check; ``None`` for a named metric.
    """

    given: object
    path: str
    reward: Reward | None

    @property
    def written(self) -> object:
        """The metric as text or as a map; ``None`` for a function, which has another id in each call."""
        is_function = isinstance(self.given, Mapping) and "callback" in plain(self.given)
        return None if is_function else self.given

    def of(self, program: SignatureSpec, fields: Collection[str] = ()) -> Reward:
        """Return the metric for a program.

        Args:
            program: The signature of the program.
            fields: The fields of its predictions; empty: they are not known.

        Raises:
            OperationError: Of kind ``input``, with the path of the invalid element: also of a field that no prediction
                has.
        """
        metric = self._of(program)
        if fields and metric.field is not None and metric.field not in fields:
            raise arguments.unknown("field of the prediction", metric.field, fields, self.path, f"{self.path}.field")
        return metric

    def _of(self, program: SignatureSpec) -> Reward:
        if self.reward is not None:
            return self.reward
        name, field = text_of(self.given), program.outputs[0].name if program.outputs else None
        if name is None or name == _SEMANTIC:
            given = {} if name else arguments.options(self.given, self.path)
            return _semantic(given, self.path, program, field)
        if field is None:
            return _OnlyShared(name, frozenset(item.name for item in program.inputs), self.path)
        return read_reward({"check": name, "field": field, "input": field}, self.path)


def read_metric(value: object, path: str) -> MetricChoice:
    """Read a metric: a function of Elixir, a check, or the name of a metric.

    Raises:
        OperationError: Of kind ``input``, with the path of the invalid element.
    """
    if value is None:
        check = '%{check: "equals", field: "answer", input: "expected"}'
        message = f"expected a function, a check such as {check}, or one of {', '.join(NAMES)} at {path}"
        raise OperationError("input", message, path=path)
    name = text_of(value)
    if name is None:
        given = dict(value) if isinstance(value, Mapping) else {}
        is_semantic = plain(given.get("check")) == _SEMANTIC
        return MetricChoice(value, path, None if is_semantic else read_reward(value, path, "metric"))
    if name not in NAMES:
        raise arguments.unknown("metric", name, NAMES, path)
    return MetricChoice(value, path, None)


class _MetricOption(Option):
    """A metric: a function of Elixir, a check, or a name."""

    def _read(self, value: object, path: str) -> MetricChoice:
        return read_metric(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "metric"}


#: The option of an evaluation and of most compilations.
METRIC: Final = _MetricOption(name="metric", description=f"a function, a check, or one of {', '.join(NAMES)}")


def _semantic(given: Mapping[str, Any], path: str, program: SignatureSpec, field: str | None) -> SemanticF1:
    arguments.only(given, ["check", "field", "input", "question"], f'key of the check "{_SEMANTIC}"', path)
    field = arguments.text(given.get("field", field), f"{path}.field", NAME_BYTES)
    expected = arguments.text(given.get("input", field), f"{path}.input", NAME_BYTES)
    first_input = program.inputs[0].name if program.inputs else None
    question = arguments.text(given.get("question", first_input), f"{path}.question")
    return SemanticF1(question, field, expected)
