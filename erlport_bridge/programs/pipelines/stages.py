"""One module of a program as data: its signature, its options and the module that it runs, ready to be built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import dspy

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import tools
from erlport_bridge.programs.models import LanguageModel
from erlport_bridge.programs.modules import ModelOption, ModuleEntry
from erlport_bridge.programs.options import Option
from erlport_bridge.programs.signatures import SignatureSpec, build_signature
from erlport_bridge.programs.tools import ElixirTool


@dataclass(frozen=True)
class Stage:
    """One module with its signature, ready to be built.

    Attributes:
        entry: The entry of the module in the catalogue.
        spec: The signature; for a module that runs another, the signature of the inner module.
        options: The options that were given, by name.
        tools: The names of tools, and functions of Elixir.
        of: The stage of the module that it runs.
        name: The name by which other stages of the program refer to it.
        sources: The sources of inputs that are not found by their names.
        model: The language model of this stage alone. Equal stages with different models share one module, since each
            run brings the models.
        predictor_models: The language models of single predictors of the stage, by their names.
        names_all_models: Every predictor of the stage has a model of its own.
    """

    entry: ModuleEntry
    spec: SignatureSpec
    options: tuple[tuple[str, Any], ...] = ()
    tools: tuple[str | ElixirTool, ...] = ()
    of: Stage | None = None
    name: str | None = None
    sources: tuple[tuple[str, Source], ...] = ()
    model: LanguageModel | None = field(default=None, compare=False)
    predictor_models: Mapping[str, LanguageModel] = field(default_factory=dict, compare=False)
    names_all_models: bool = field(default=False, compare=False)

    def __hash__(self) -> int:
        # Each call looks for the module of its stage.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.entry, self.spec, self.options, self.tools, self.of, self.name, self.sources))

    def build(self) -> dspy.Module:
        """Build the module.

        Raises:
            OperationError: Of kind ``input``: DSPy refuses the combination of parts, such as a tool with the name of an
                input.
        """
        signature = None if self.entry.signature else build_signature(self.spec)
        module = self.of.build() if self.of else None
        try:
            return self.entry.build(signature, dict(self.options), tools.find_tools(list(self.tools)), module)
        except (TypeError, ValueError) as error:
            message = f"{self.entry.name} cannot be built: {message_of(error)}"
            raise OperationError("input", message, path="module") from error

    def predictor_names(self) -> list[str]:
        """Return the names of the predictors within the stage; a module that is one itself has none.

        Raises:
            OperationError: As :meth:`build`.
        """
        module = self.build()
        return [name for name, predictor in module.named_predictors() if predictor is not module]

    @cached_property
    def chain(self) -> list[Stage]:
        """The stage, the stage of the module that it runs, and so on."""
        return [self, *(self.of.chain if self.of else [])]

    @property
    def adds(self) -> tuple[str, ...]:
        """The fields of a prediction besides the outputs of the signature."""
        return tuple(name for stage in self.chain for name in stage.entry.adds if name not in self.spec.output_names)

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of a prediction."""
        return (*self.adds, *(item.name for item in self.spec.outputs))

    @cached_property
    def optional_inputs(self) -> Mapping[str, Any]:
        """The inputs besides those of the signature, with their types."""
        found = {name: kind for stage in self.chain for name, kind in stage.entry.optional_inputs.items()}
        return {name: kind for name, kind in found.items() if name not in self.spec.input_names}

    @cached_property
    def needs_sandbox(self) -> bool:
        """Whether code that a model wrote runs."""
        return any(stage.entry.needs_sandbox for stage in self.chain)

    @property
    def asks_model(self) -> bool:
        """Whether a language model is called."""
        return any(stage.entry.asks_model for stage in self.chain)

    @property
    def needs_model(self) -> bool:
        """Whether a language model is called that the stage does not name."""
        if self.model is not None or not self.asks_model:
            return False
        return not self.names_all_models or any(stage.asks_besides for stage in self.chain)

    @property
    def asks_besides(self) -> bool:
        """Whether the module asks the stage's model also without one of its predictors."""
        names = [option.name for option in self.given_options if isinstance(option, ModelOption)]
        return self.entry.asks_besides and not any(dict(self.options)[name] for name in names)

    @property
    def models(self) -> list[LanguageModel]:
        """The models that the stage and its predictors have of their own."""
        return [*([self.model] if self.model else []), *self.predictor_models.values()]

    @property
    def runs_in_thread(self) -> bool:
        """Whether the stage blocks a thread."""
        return any(stage.entry.runs_in_thread for stage in self.chain)

    @property
    def is_streamed(self) -> bool:
        """Whether a stream sends the text of its fields while the model writes it."""
        return all(stage.entry.is_streamed for stage in self.chain)

    @cached_property
    def is_shared(self) -> bool:
        """Whether equal stages may share one module: not if an option is an object of its call."""
        return all(option.is_shared for stage in self.chain for option in stage.given_options)

    @property
    def given_options(self) -> list[Option]:
        """The options of the entry for which the caller gave a value."""
        names = dict(self.options)
        return [option for option in self.entry.options if option.name in names]

    def with_spec(self, spec: SignatureSpec) -> Stage:
        """Return the stage with another signature, which the module that it runs gets too."""
        return replace(self, spec=spec, of=self.of.with_spec(spec) if self.of else None)

    def describe(self) -> dict[str, Any]:
        """Return the stage as a term."""
        values = dict(self.options)
        return {
            "name": self.name,
            "module": self.entry.name,
            "signature": self.spec.text,
            "options": {option.name: option.shown(values[option.name]) for option in self.given_options},
            "tools": [tool.name if isinstance(tool, ElixirTool) else tool for tool in self.tools],
            "inputs": {name: source.text for name, source in self.sources},
            "lm": self.model.model if self.model else None,
            "lms": {name: model.model for name, model in self.predictor_models.items()},
            "of": self.of.describe() if self.of else None,
        }


@dataclass(frozen=True)
class Source:
    """The source of an input.

    Attributes:
        stage: The index of an earlier stage; ``None``: the inputs of the program.
        name: A field of that stage, or an input of the program.
        text: The reference as the caller wrote it.
    """

    stage: int | None
    name: str
    text: str = field(compare=False)
