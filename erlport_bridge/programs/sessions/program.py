"""Hold a stored program: stages with an id, and what they have learned."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES
from erlport_bridge.programs.execution import META, TurnFields
from erlport_bridge.programs.models import Budget, LanguageModel, with_settings
from erlport_bridge.programs.pipelines import (
    HISTORY_FIELD,
    Learned,
    Needs,
    Pipeline,
    Source,
    Stage,
    Tools,
    Voting,
    learned,
    learned_tools,
    pipeline,
    voting,
    with_tools,
)
from erlport_bridge.programs.sessions.conversations import Turn
from erlport_bridge.programs.sessions.neighbours import Neighbours
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments, quoted, text_of
from erlport_bridge.programs.values import convert
from erlport_bridge.term import shown


@dataclass
class Program:
    """A stored program: stages with an id, and what they have learned.

    Attributes:
        outputs: The fields that it returns, each with its source; ``None``: all fields of its stages.
        whole: The signature of the whole program: its inputs and its outputs.
        model: The program's own model; ``None``: the model of its session.
        settings: Generation settings for all its calls.
        keeps_history: Whether the program keeps conversations, each by the id that a call names.
        source: The spec as the caller wrote it, without its model.
        learned: What its predictors have learned; ``None``: nothing.
        compiled: The optimizer's report, or ``None``.
        neighbours: The examples from which each call learns anew; ``None``: no such examples.
        size: The bytes of its spec and of what it has learned.
        models: The models within its spec as the caller wrote them, by their paths.
        row: The version of its row in the store from which it is; ``None``: it is not stored yet.
        budget: What its calls may spend, of all versions together.
    """

    id: str
    session_id: str
    budget: Budget
    stages: tuple[Stage, ...]
    outputs: tuple[tuple[str, Source], ...] | None
    whole: SignatureSpec
    model: LanguageModel | None
    settings: Mapping[str, Any]
    keeps_history: bool
    source: Mapping[str, Any] = field(default_factory=dict)
    learned: Learned | None = None
    compiled: Mapping[str, Any] | None = None
    neighbours: Neighbours | None = None
    version: int = 1
    size: int = 0
    calls: int = 0
    models: Mapping[str, Any] = field(default_factory=dict, repr=False)
    row: int | None = None
    _learned_module: Pipeline | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def asked(self) -> SignatureSpec:
        """The signature as callers see it: without the history, which the program adds itself."""
        inputs = tuple(item for item in self.whole.inputs if not self.keeps_history or item.name != HISTORY_FIELD)
        return SignatureSpec(inputs, self.whole.outputs, self.whole.instructions)

    @property
    def prediction_fields(self) -> tuple[str, ...]:
        """The fields of its predictions; empty: they are not known, as those of a module of the application."""
        if self.outputs is not None:
            return tuple(name for name, _source in self.outputs)
        if any(stage.entry.signature is not None for outer in self.stages for stage in outer.chain):
            return ()
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.fields))

    def identify(self, program_id: str) -> None:
        """Set the id that the program has elsewhere: in the store, or in the pool's configuration."""
        self.id = program_id
        self.budget.of = budget_of(program_id)

    def module(self) -> Pipeline:
        """Return the module that runs the program."""
        if not self.learned:
            return pipeline.built(self.stages, self.outputs)
        if self._learned_module is not None:
            return self._learned_module
        module = new_module(self.stages, self.outputs, self.learned)
        learned.teach(module, self.learned)
        if all(stage.is_shared for stage in self.stages):
            self._learned_module = module
        return module

    def with_learned(self, knows: Learned) -> Program:
        """Return the program with what was learned for one call."""
        return replace(self, learned=knows, _learned_module=None, _lock=threading.Lock())

    def next_version(
        self,
        version: int,
        knows: Learned,
        compiled: Mapping[str, Any],
        neighbours: Neighbours | None = None,
        *,
        size: int = 0,
    ) -> Program:
        """Return the program as a version of this number, with what it has learned and the optimizer's report."""
        return replace(
            self,
            learned=knows,
            compiled=compiled,
            neighbours=neighbours,
            version=version,
            size=size,
            calls=0,
            _learned_module=None,
            _lock=threading.Lock(),
        )

    def own_models(self, settings: Mapping[str, Any]) -> dict[str, dspy.LM]:
        """Return the models of stages by their names, and of predictors by theirs (``search.react``).

        Args:
            settings: The generation settings of a call. They go before those of a model, and these before those of the
                program, which are for all its stages.
        """
        own = {stage.name: stage.model for stage in self.stages if stage.name and stage.model}
        for stage in self.stages:
            own |= {f"{stage.name}.{name}": model for name, model in stage.predictor_models.items()}
        return {
            name: with_settings(model.lm, {**self.settings, **dict(model.settings), **settings})
            for name, model in own.items()
        }

    @property
    def needs(self) -> Needs:
        """What each call must bring."""
        return Needs.of(self.stages, learned_tools(self.compiled))

    async def with_given(self, tools: Tools, functions: Mapping[str, str]) -> Program:
        """Return the program with what a call brings, and with its exported tools, in their places.

        Raises:
            OperationError: Of kind ``input``: the program needs more, has no place for a tool, or names an exported
                function that Elixir does not have.
        """
        needs = self.needs
        needs.check(tools, functions)
        found = await needs.find(tools, functions)
        if not tools and not found:
            return self
        stages = with_tools(self.stages, tools, found)
        return replace(self, stages=stages, _learned_module=None, _lock=threading.Lock())

    def check_history(self, path: str) -> None:
        """Check that the program keeps conversations.

        Raises:
            OperationError: Of kind ``input``, with the path.
        """
        if not self.keeps_history:
            message = f"program {quoted(self.id)} keeps no conversations; create it with history: true"
            raise OperationError("input", message, path=path)

    @property
    def turn_fields(self) -> TurnFields:
        """What a turn of its conversations may hold."""
        return TurnFields.of(self.stages, self.asked)

    def with_history(self, values: Mapping[str, Any], turns: Iterable[Turn] = ()) -> dict[str, Any]:
        """Return the inputs of a call with the turns of its conversation, if the program keeps conversations."""
        if not self.keeps_history:
            return dict(values)
        return {HISTORY_FIELD: dspy.History(messages=[dict(turn) for turn in turns]), **values}

    def count_call(self) -> None:
        """Count a successful call."""
        with self._lock:
            self.calls += 1

    def turn_of(self, values: Mapping[str, Any], prediction: Mapping[str, Any]) -> Turn:
        """Return the turn that a successful call adds to its conversation."""
        given = {name: value for name, value in values.items() if name != HISTORY_FIELD}
        return given | self._outputs(prediction)

    def _outputs(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a prediction, which is a term, as the values that DSPy takes."""
        outputs = {}
        if not self.whole.outputs:  # a module of the application that declares none
            return {name: value for name, value in prediction.items() if name != META}
        for item in self.whole.outputs:
            if item.name in prediction:
                value = prediction[item.name]
                try:
                    outputs[item.name] = None if value is None else convert(item.annotation, value, item.name)
                except OperationError:  # a module of the application may give what it did not declare
                    outputs[item.name] = value
        return outputs

    def describe(self) -> dict[str, Any]:
        """Return the program as a term."""
        return {
            "id": self.id,
            "session_id": self.session_id,
            "version": self.version,
            "signature": self.asked.text,
            "stages": [stage.describe() for stage in self.stages],
            "outputs": {name: source.text for name, source in self.outputs} if self.outputs else None,
            "history": self.keeps_history,
            "model": self.model.model if self.model else None,
            "config": dict(self.settings),
            "calls": self.calls,
            "compiled": dict(self.compiled) if self.compiled is not None else None,
            "needs": self.needs.describe(),
            "budget": self.budget.describe(),
        }


def new_module(
    stages: tuple[Stage, ...], outputs: tuple[tuple[str, Source], ...] | None, predictors: Collection[object]
) -> Pipeline:
    """Return a new module for stages that has predictors of these names."""
    members = voting.count_members(predictors)
    return Voting(stages, outputs, members) if members else Pipeline(stages, outputs)


def budget_of(program_id: str) -> str:
    """Return whose budget that of a program is, for errors."""
    return f"program {quoted(program_id)}"


def read_program_id(value: object) -> str:
    """Read the id of a program, the argument ``program_id`` of an operation.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not text, is empty or too long.
    """
    if text_of(value) is None:
        message = f"expected a %DSPex.Program{{}} or its id at program_id, got {shown(value)}"
        raise OperationError("input", message, path="program_id")
    return arguments.text(value, "program_id", ID_BYTES)
