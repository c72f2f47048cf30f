"""Run a program that is given as data: stages, run one after the other, each a DSPy module with a signature.

Every stage gets the inputs of the program and the outputs of earlier stages, by name. If stages share one signature, a
stage has the outputs of the stage before it as the inputs ``previous_<field>``. A stage with a name can be referred to:
``inputs: %{context: "search.passages"}``. It and its predictors may also have language models of their own.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import own_models
from erlport_bridge.programs.pipelines.stages import Source, Stage
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import quoted
from erlport_bridge.programs.values import input_values, plain
from erlport_bridge.tracing import labelled

HISTORY_FIELD: Final = "history"
#: The prefix of an input that is an output of the stage before.
PREVIOUS: Final = "previous_"
#: The beginning of DSPy's name for a parameter of a stage.
_PLACE: Final = re.compile(r"modules\[(\d+)\]")


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Stages that run one after the other.

    Args:
        stages: At least one stage.
        outputs: The fields of the prediction, each with its name and its source; ``None``: all fields that the stages
            return, by name.
    """

    # A module of DSPy reads each attribute by a function in Python, to warn of a `forward` that is called directly.
    __getattribute__ = object.__getattribute__

    def __init__(self, stages: Sequence[Stage], outputs: Sequence[tuple[str, Source]] | None = None) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.modules = [stage.build() for stage in stages]
        self.outputs = outputs
        self._is_one_module = len(self.stages) == 1 and outputs is None and not self.stages[0].sources

    async def predict(self, **inputs: Any) -> dspy.Prediction:
        """Run the program.

        A program of a single module calls that module directly: DSPy would count and trace this module around it too.
        """
        if not self._is_one_module:
            return await self.acall(**inputs)
        stage, module = self.stages[0], self.modules[0]
        if stage.name is None:
            # Most calls: models and spans are those of stages with a name.
            prediction: dspy.Prediction = await module.acall(**inputs)
            return prediction
        with _own_models(stage, module), _in_stage(stage):
            return await module.acall(**inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run all stages; a field of several stages has its value from the last of them."""
        results: list[dict[str, Any]] = []
        earlier: dict[str, Any] = {}
        for stage, module in zip(self.stages, self.modules, strict=True):
            with _own_models(stage, module), _in_stage(stage):
                prediction = await module.acall(**_stage_inputs(stage, inputs, earlier, results))
            results.append(dict(prediction.items()))
            earlier.update(results[-1])
            earlier.update({PREVIOUS + name: value for name, value in results[-1].items()})
        if self.outputs is not None:
            return dspy.Prediction(**{name: _found(source, inputs, results) for name, source in self.outputs})
        # The prediction of a single stage has its completions; a merged prediction has none.
        return prediction if len(results) == 1 else dspy.Prediction(**functools.reduce(dict.__or__, results))

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return DSPy's list of parameters (predictors, for instance), where a named stage gives them its name.

        DSPy names them by their place, ``modules[0].predict``. With a name of its own, such as ``search.predict``, what
        a predictor has learned stays with it when stages are added or moved, and a metric is told which one it judges.
        """
        return [(self._named(place), parameter) for place, parameter in super().named_parameters()]

    def names_by_place(self) -> dict[str, str]:
        """Return the names of the parameters by the names that DSPy gives them."""
        return {place: self._named(place) for place, _ in super().named_parameters()}

    def _named(self, place: str) -> str:
        found = _PLACE.match(place)
        name = self.stages[int(found[1])].name if found else None
        return place if found is None or name is None else name + place[found.end() :]

    def shown_fields(self) -> list[dict[str, str]]:
        """Return for each stage the names of its fields in the prediction, by their names in the stage."""
        if self.outputs is None:
            last = {name: index for index, stage in enumerate(self.stages) for name in stage.fields}
            return [
                {name: name for name in stage.fields if last[name] == index} for index, stage in enumerate(self.stages)
            ]
        return [
            {source.name: name for name, source in self.outputs if source.stage == index}
            for index in range(len(self.stages))
        ]


def _own_models(stage: Stage, module: dspy.Module) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a stage and its predictors ask their own models, if they have any."""
    models = own_models.current()
    settings = models.settings(stage.name, module) if models is not None and stage.name is not None else {}
    context: contextlib.AbstractContextManager[None] = (
        dspy.context(**settings) if settings else contextlib.nullcontext()
    )
    return context


def _in_stage(stage: Stage) -> contextlib.AbstractContextManager[None]:
    """Return the context in which spans have the name of the stage, if it has one."""
    return contextlib.nullcontext() if stage.name is None else labelled(stage=stage.name)


def built(stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None = None) -> Pipeline:
    """Return the module for stages; equal stages share one module, since building it is the most expensive step."""
    if all(stage.is_shared for stage in stages):
        return _built_once(stages, outputs)
    return Pipeline(stages, outputs)


@functools.lru_cache(maxsize=256)
def _built_once(stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None) -> Pipeline:
    return Pipeline(stages, outputs)


def _stage_inputs(
    stage: Stage, inputs: Mapping[str, Any], earlier: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the inputs of a stage: the program's inputs unchanged, and outputs of earlier stages, checked.

    Text that a model wrote is data for the next stage: it must have the type of the field, and must not be taken for
    the structure of a prompt.
    """
    sources = dict(stage.sources)
    passed: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for name in [*(item.name for item in stage.spec.inputs), *stage.optional_inputs]:
        source = sources.get(name)
        if source is not None and source.stage is not None:
            given[name] = plain(_found(source, inputs, results))
        elif source is not None:
            passed[name] = inputs[source.name]
        elif name in inputs:
            passed[name] = inputs[name]
        elif name not in stage.optional_inputs:
            given[name] = plain(earlier[name])
    fields = tuple(item for item in stage.spec.inputs if item.name in given)
    return passed | input_values(SignatureSpec(fields, (), None), given, path=f"the inputs of {stage.entry.name}")


def _found(source: Source, inputs: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Any:
    fields = inputs if source.stage is None else results[source.stage]
    if source.name in fields:
        return fields[source.name]
    # A module may leave out a field that it usually returns.
    raise OperationError("parse", f"there is no {quoted(source.text)}: the stage gave {', '.join(fields) or 'nothing'}")
