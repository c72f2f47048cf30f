"""One module of a program with its signature, its options and the module that it runs: as data, ready to be built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dspy

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import tools
from erlport_bridge.programs.modules import ModuleEntry
from erlport_bridge.programs.options import Option
from erlport_bridge.programs.signatures import SignatureSpec, build_signature
from erlport_bridge.programs.tools import ElixirTool


@dataclass(frozen=True)
class Stage:
    """One module with its signature, ready to be built.

    Attributes:
        entry: What the module is.
        spec: Its signature; of one that runs another, the other's.
        options: Those that were given.
        tools: Names, and functions of Elixir.
        of: The module that it runs.
        name: What a program's other stages call it.
        sources: Where its inputs come from, of those that are not found by their names.
    """

    entry: ModuleEntry
    spec: SignatureSpec
    options: tuple[tuple[str, Any], ...] = ()
    tools: tuple[str | ElixirTool, ...] = ()
    of: Stage | None = None
    name: str | None = None
    sources: tuple[tuple[str, Source], ...] = ()

    def build(self) -> dspy.Module:
        """Build the module.

        Raises:
            OperationError: Of kind ``input``: DSPy says that the parts do not fit together, such as a tool that is
                called like an input.
        """
        signature = None if self.entry.signature else build_signature(self.spec)
        module = self.of.build() if self.of else None
        try:
            return self.entry.build(signature, dict(self.options), tools.find_tools(list(self.tools)), module)
        except (TypeError, ValueError) as error:
            message = f"{self.entry.name} cannot be built: {message_of(error)}"
            raise OperationError("input", message, path="module") from error

    @property
    def chain(self) -> list[Stage]:
        """The module, the one that it runs, and so on."""
        return [self, *(self.of.chain if self.of else [])]

    @property
    def adds(self) -> tuple[str, ...]:
        """Fields of a prediction beside the signature's outputs."""
        return tuple(name for stage in self.chain for name in stage.entry.adds)

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of a prediction."""
        return (*self.adds, *(item.name for item in self.spec.outputs))

    @property
    def optional_inputs(self) -> Mapping[str, Any]:
        """Inputs beside the signature's, with their types."""
        found = {name: kind for stage in self.chain for name, kind in stage.entry.optional_inputs.items()}
        return {name: kind for name, kind in found.items() if name not in self.spec.input_names}

    @property
    def needs_sandbox(self) -> bool:
        """Whether code of a model runs."""
        return any(stage.entry.needs_sandbox for stage in self.chain)

    @property
    def asks_model(self) -> bool:
        """Whether a language model is asked."""
        return any(stage.entry.asks_model for stage in self.chain)

    @property
    def runs_in_thread(self) -> bool:
        """Whether a thread is blocked."""
        return any(stage.entry.runs_in_thread for stage in self.chain)

    @property
    def is_streamed(self) -> bool:
        """Whether its text is told of while the model writes it."""
        return all(stage.entry.is_streamed for stage in self.chain)

    @property
    def is_shared(self) -> bool:
        """Whether equal stages are one module: not where an option is an object of its call."""
        return all(option.is_shared for stage in self.chain for option in stage.given_options)

    @property
    def given_options(self) -> list[Option]:
        """Those of the entry's options that were given."""
        names = dict(self.options)
        return [option for option in self.entry.options if option.name in names]

    def with_spec(self, spec: SignatureSpec) -> Stage:
        """Give the same with another signature, for the module that it runs too."""
        return replace(self, spec=spec, of=self.of.with_spec(spec) if self.of else None)

    def describe(self) -> dict[str, Any]:
        """Give the stage as a term."""
        values = dict(self.options)
        return {
            "name": self.name,
            "module": self.entry.name,
            "signature": self.spec.text,
            "options": {option.name: option.shown(values[option.name]) for option in self.given_options},
            "tools": [tool.name if isinstance(tool, ElixirTool) else tool for tool in self.tools],
            "inputs": {name: source.text for name, source in self.sources},
            "of": self.of.describe() if self.of else None,
        }


@dataclass(frozen=True)
class Source:
    """Where an input comes from.

    Attributes:
        stage: The place of an earlier stage; ``None``: the program's own inputs.
        name: A field of that stage, or an input.
        text: As the caller wrote it.
    """

    stage: int | None
    name: str
    text: str = field(compare=False)
