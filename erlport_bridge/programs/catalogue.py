"""Which DSPy modules can be called, what they take, and how each is built.

Every module that :meth:`ModuleEntry.build` gives can be awaited with ``acall`` and shared between calls: it keeps
nothing of a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments
from erlport_bridge.programs.comparison import MAX_ATTEMPTS, ComparedChains
from erlport_bridge.programs.text import quoted, suggestion
from erlport_bridge.term.inspecting import shown

_MAX_ITERATIONS: Final = 100


@dataclass(frozen=True)
class Option:
    """An option of a module's constructor: an integer between ``minimum`` and ``maximum``."""

    name: str
    default: int
    minimum: int
    maximum: int
    description: str

    def check(self, value: object, path: str) -> int:
        """Give the value; raises an :class:`OperationError` of kind ``input`` if it is out of bounds."""
        if type(value) is int and self.minimum <= value <= self.maximum:
            return value
        raise OperationError(
            "input",
            f"expected an integer from {self.minimum} to {self.maximum} at {path}, got {shown(value)}",
            path=path,
        )

    def describe(self) -> dict[str, Any]:
        """Give the option as a term."""
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {"type": "int", "default": self.default, **bounds, "description": self.description}


class InThread(dspy.Module):  # type: ignore[misc]
    """A module that can only block, made awaitable: it runs in a thread of the loop's executor."""

    def __init__(self, module: dspy.Module) -> None:
        super().__init__()
        self.module = module

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module in a thread. When this is cancelled the thread goes on until its own work ends."""
        return await asyncio.to_thread(self.module, **inputs)


class ProgramOfThought(InThread):
    """``dspy.ProgramOfThought``, whose failure to get working code from the model is an error of the sandbox."""

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the module in a thread.

        Raises:
            OperationError: Of kind ``sandbox``: no attempt at code ran without an error.
        """
        try:
            return await super().aforward(**inputs)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # DSPy's errors of the sandbox itself have classes of their own
                raise
            raise OperationError(
                "sandbox", f"the model wrote no code that runs, in {self.module.max_iters} attempts: {error}"
            ) from error


Build = Callable[[Any, Mapping[str, int], Sequence[Any]], dspy.Module]


@dataclass(frozen=True)
class ModuleEntry:
    """One module that can be called.

    Attributes:
        name: As callers write it.
        summary: What it does, one sentence.
        build_module: From a signature, all options, and tools.
        options: What its constructor takes.
        adds: Fields of a prediction beside the signature's outputs.
        reserved: Names that no field of a signature may have, for the module uses them itself.
        takes_tools: It takes the option ``tools``.
        needs_sandbox: It runs code that a model wrote.
        runs_in_thread: It blocks a thread, so that a deadline ends the wait for it but not at once its work.
        optional_inputs: Inputs it takes beside the signature's.
        deprecated: What DSPy says of its future.
    """

    name: str
    summary: str
    build_module: Build
    options: tuple[Option, ...] = ()
    adds: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    takes_tools: bool = False
    needs_sandbox: bool = False
    runs_in_thread: bool = False
    optional_inputs: tuple[str, ...] = ()
    deprecated: str | None = None

    def build(self, signature: Any, options: Mapping[str, int], tools: Sequence[Any]) -> dspy.Module:
        """Build the module for a signature; ``options`` left out have their defaults."""
        defaults = {option.name: option.default for option in self.options}
        return self.build_module(signature, defaults | dict(options), tools)

    def check_options(self, given: Mapping[str, object], path: str) -> dict[str, int]:
        """Give those options of the constructor that ``given`` holds, checked."""
        known = [option for option in self.options if option.name in given]
        return {option.name: option.check(given[option.name], f"{path}.{option.name}") for option in known}

    def describe(self) -> dict[str, Any]:
        """Give the entry as a term."""
        return {
            "name": self.name,
            "summary": self.summary,
            "options": {option.name: option.describe() for option in self.options},
            "adds": list(self.adds),
            "reserved": list(self.reserved),
            "optional_inputs": list(self.optional_inputs),
            "takes_tools": self.takes_tools,
            "needs_sandbox": self.needs_sandbox,
            "cancellable": not self.runs_in_thread,
            "deprecated": self.deprecated,
        }


def _react(signature: Any, options: Mapping[str, int], tools: Sequence[Any]) -> dspy.Module:
    return dspy.ReAct(signature, tools=list(tools), max_iters=options["max_iters"])


def _program_of_thought(signature: Any, options: Mapping[str, int], tools: Sequence[Any]) -> dspy.Module:
    return ProgramOfThought(dspy.ProgramOfThought(signature, max_iters=options["max_iters"]))


MODULES: Final[Mapping[str, ModuleEntry]] = {
    entry.name: entry
    for entry in (
        ModuleEntry(
            "dspy.Predict",
            "asks the model once for the output fields",
            lambda signature, options, tools: dspy.Predict(signature),
        ),
        ModuleEntry(
            "dspy.ChainOfThought",
            "asks the model to reason before it gives the output fields",
            lambda signature, options, tools: dspy.ChainOfThought(signature),
            adds=("reasoning",),
            reserved=("reasoning",),
        ),
        ModuleEntry(
            "dspy.ReAct",
            "lets the model call tools, one after the other, until it can give the output fields",
            _react,
            options=(Option("max_iters", 20, 1, _MAX_ITERATIONS, "most tool calls"),),
            adds=("reasoning", "trajectory"),
            reserved=("reasoning", "trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters"),
            takes_tools=True,
        ),
        ModuleEntry(
            "dspy.ProgramOfThought",
            "has the model write Python code, runs it in a sandbox, and takes the output fields from its result",
            _program_of_thought,
            options=(Option("max_iters", 3, 1, _MAX_ITERATIONS, "most attempts at code that runs"),),
            adds=("reasoning",),
            reserved=(
                *("reasoning", "generated_code", "previous_code", "error", "final_generated_code", "code_output"),
                *("interpreter", "max_iters", "interpreter_factory"),
            ),
            needs_sandbox=True,
            runs_in_thread=True,
            deprecated="DSPy 3.5 removes it",
        ),
        ModuleEntry(
            "dspy.MultiChainComparison",
            "compares several answers with their reasoning and gives the best; makes the answers itself where the "
            'input "completions" brings none',
            lambda signature, options, tools: ComparedChains(signature, options["M"]),
            options=(Option("M", 3, 2, MAX_ATTEMPTS, "how many answers are compared"),),
            adds=("rationale",),
            reserved=(
                *("rationale", "reasoning", "completions"),
                *(f"reasoning_attempt_{number}" for number in range(1, MAX_ATTEMPTS + 1)),
            ),
            optional_inputs=("completions",),
        ),
    )
}


def find_module(name: object) -> ModuleEntry:
    """Find a module by name.

    Raises:
        OperationError: Of kind ``module_not_found``; nothing is imported or looked up to find out.
    """
    wanted = arguments.text(name, "module")
    entry = MODULES.get(wanted)
    if entry is None:
        remedy = suggestion(wanted, MODULES) or f"; known modules: {', '.join(MODULES)}"
        raise OperationError("module_not_found", f"unknown module {quoted(wanted)}{remedy}", path="module")
    return entry
