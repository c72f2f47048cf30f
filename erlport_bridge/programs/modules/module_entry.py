"""What is known of one module that can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.options import (
    Option,
)
from erlport_bridge.programs.signatures import Field, SignatureSpec

_MODULE_OPTION: Final = {
    "type": "module",
    "default": None,
    "required": True,
    "description": "the module that is run: a name, or a map",
}


@dataclass(frozen=True)
class Parts:
    """What a module is built of.

    Attributes:
        signature: A class of DSPy.
        options: All options of its entry, by name.
        tools: The tools that it was given.
        module: The module that it runs, of one that takes one.
    """

    signature: Any
    options: Mapping[str, Any]
    tools: Sequence[dspy.Tool] = ()
    module: dspy.Module | None = None


@dataclass(frozen=True, eq=False)
class ModuleEntry:
    """One module that can be called; there is one entry for each.

    Attributes:
        name: As callers write it.
        summary: What it does, one sentence.
        build_module: From its parts.
        options: What its constructor takes.
        adds: Fields of a prediction beside the signature's outputs.
        reserved: Names that no field of a signature may have, for the module uses them itself.
        takes_module: It runs another module, the option ``of``, whose signature is its own.
        takes_tools: It takes the option ``tools``.
        reserved_tools: Names that no tool may have, for the module has its own of that name.
        needs_sandbox: It runs code that a model wrote.
        runs_in_thread: It blocks a thread, which its deadline interrupts.
        asks_model: It asks a language model.
        is_streamed: The text of its fields is told of while the model writes it.
        optional_inputs: Inputs it takes beside the signature's, each with its type: as DSPy's, ``Any`` for any term.
        signature: Its own, of one that takes none from its callers.
        outputs: What it gives in place of the signature's outputs.
        alternatives: Options of which one must be given, and only one.
        operation: The operation that does what it is for, where it is no module that can be executed.
        experimental: DSPy says that it may change.
        deprecated: What DSPy says of its future.
    """

    name: str
    summary: str
    build_module: Callable[[Parts], dspy.Module]
    options: tuple[Option, ...] = ()
    adds: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    takes_module: bool = False
    takes_tools: bool = False
    reserved_tools: tuple[str, ...] = ()
    needs_sandbox: bool = False
    runs_in_thread: bool = False
    asks_model: bool = True
    is_streamed: bool = True
    optional_inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    signature: SignatureSpec | None = None
    outputs: tuple[Field, ...] = ()
    alternatives: tuple[str, ...] = ()
    operation: str = "execute_module"
    experimental: bool = False
    deprecated: str | None = None

    @cached_property
    def option_names(self) -> frozenset[str]:
        """What may stand in the options of a call for the module itself."""
        names = [option.name for option in self.options]
        return frozenset([*names, "of"] if self.takes_module else names)

    def build(
        self,
        signature: Any,
        options: Mapping[str, Any],
        tools: Sequence[dspy.Tool] = (),
        module: dspy.Module | None = None,
    ) -> dspy.Module:
        """Build the module; ``options`` left out have their defaults."""
        defaults = {option.name: option.default for option in self.options}
        return self.build_module(Parts(signature, defaults | dict(options), tools, module))

    def check_options(self, given: Mapping[str, tuple[object, str]], path: str) -> dict[str, Any]:
        """Give the values of options as the module is built with them.

        Args:
            given: Those that a caller gave, by name, each with the path where it stands.
            path: Where they would stand, for those that are missing.

        Raises:
            OperationError: Of kind ``input``, with the path: an option has not the type, or is missing.
        """
        for option in self.options:
            if option.required and option.name not in given:
                where = f"{path}.{option.name}"
                raise OperationError("input", f"expected {option.name} ({option.description}) at {where}", path=where)
        chosen = [name for name in self.alternatives if name in given]
        if self.alternatives and len(chosen) != 1:
            where = f"{path}.{(chosen or self.alternatives)[-1]}"
            came = " and ".join(chosen) or "none of them"
            message = f"expected one of {', '.join(self.alternatives)} at {path}, got {came}"
            raise OperationError("input", message, path=where)
        return {option.name: option.read(*given[option.name]) for option in self.options if option.name in given}

    def describe(self) -> dict[str, Any]:
        """Give the entry as a term."""
        return {
            "name": self.name,
            "summary": self.summary,
            "operation": self.operation,
            "signature": self.signature.text if self.signature else None,
            "options": {
                **({"of": _MODULE_OPTION} if self.takes_module else {}),
                **{option.name: option.describe() for option in self.options},
            },
            "adds": list(self.adds),
            "reserved": list(self.reserved),
            "optional_inputs": list(self.optional_inputs),
            "takes_module": self.takes_module,
            "takes_tools": self.takes_tools,
            "reserved_tools": list(self.reserved_tools),
            "needs_sandbox": self.needs_sandbox,
            "runs_in_thread": self.runs_in_thread,
            "asks_model": self.asks_model,
            "streamed": self.is_streamed,
            "experimental": self.experimental,
            "deprecated": self.deprecated,
        }
