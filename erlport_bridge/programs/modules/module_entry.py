"""The description of one module that can be called: its options, its fields, and how it is built."""

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
from erlport_bridge.programs.signatures import Field, Reserved, SignatureSpec

_MODULE_OPTION: Final = {
    "type": "module",
    "default": None,
    "required": True,
    "description": "the module that is run: a name, or a map",
}


@dataclass(frozen=True)
class Parts:
    """The parts that a module is built from.

    Attributes:
        signature: A signature class of DSPy.
        options: All options of the entry, by name.
        tools: The tools of the call.
        module: The module that it runs, if it takes one.
    """

    signature: Any
    options: Mapping[str, Any]
    tools: Sequence[dspy.Tool] = ()
    module: dspy.Module | None = None


@dataclass(frozen=True, eq=False)
class ModuleEntry:
    """One module that can be called. There is one entry for each module, so entries compare by identity.

    Attributes:
        name: The name that callers use.
        summary: What the module does, in one sentence.
        build_module: Builds the module from its parts.
        options: The options of its constructor.
        adds: Fields of a prediction besides the outputs of the signature.
        reserved: Names that no field of a signature may have, because the module uses them itself.
        reserved_inputs: Names that no input may have. An output of such a name takes the place of the field that the
            module adds.
        takes_module: It runs another module, the option ``of``, whose signature is its own.
        takes_tools: It takes the option ``tools``.
        reserved_tools: Names that no tool may have, because the module has its own tools of these names.
        needs_sandbox: It runs code that a model wrote.
        runs_in_thread: It blocks a thread, which the deadline of the call interrupts.
        asks_model: It calls a language model.
        asks_besides: It calls the model of its call also without one of its predictors.
        is_streamed: A stream sends the text of its fields while the model writes it.
        optional_inputs: Inputs besides the signature's, each with its type; ``Any`` accepts every term.
        signature: The module's own signature, if callers cannot give one.
        outputs: Outputs that replace the outputs of the signature.
        alternatives: Options of which exactly one must be given.
        operation: The operation that does this module's work, if ``execute_module`` cannot run it.
        experimental: DSPy says that the module may change.
        deprecated: What DSPy announces about the end of the module; ``None``: nothing.
    """

    name: str
    summary: str
    build_module: Callable[[Parts], dspy.Module]
    options: tuple[Option, ...] = ()
    adds: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    reserved_inputs: tuple[str, ...] = ()
    takes_module: bool = False
    takes_tools: bool = False
    reserved_tools: tuple[str, ...] = ()
    needs_sandbox: bool = False
    runs_in_thread: bool = False
    asks_model: bool = True
    asks_besides: bool = False
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
        """The names of options in a call that are for the module itself."""
        names = [option.name for option in self.options]
        return frozenset([*names, "of"] if self.takes_module else names)

    @cached_property
    def reserved_names(self) -> Reserved:
        """The names that the module uses itself."""
        return Reserved(dict.fromkeys(self.reserved, self.name), dict.fromkeys(self.reserved_inputs, self.name))

    def build(
        self,
        signature: Any,
        options: Mapping[str, Any],
        tools: Sequence[dspy.Tool] = (),
        module: dspy.Module | None = None,
    ) -> dspy.Module:
        """Build the module; an option that is left out has its default."""
        defaults = {option.name: option.default for option in self.options}
        return self.build_module(Parts(signature, defaults | dict(options), tools, module))

    def check_options(self, given: Mapping[str, tuple[object, str]], path: str) -> dict[str, Any]:
        """Return the values of the given options, checked.

        Args:
            given: The options of the caller by name, each with the path where it stands.
            path: Where a missing option would stand, for errors.

        Raises:
            OperationError: Of kind ``input``, with the path: an option has the wrong type, or is missing.
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
        """Return the entry as a term."""
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
            "reserved_inputs": list(self.reserved_inputs),
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
