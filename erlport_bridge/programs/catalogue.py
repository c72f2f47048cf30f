"""Which DSPy modules can be called, what they take, and how each is built.

Every module that :meth:`ModuleEntry.build` gives can be awaited with ``acall`` and shared between calls: it keeps
nothing of a call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments
from erlport_bridge.programs.code_modules import CodeAct, InThread, ProgramOfThought
from erlport_bridge.programs.comparison import MAX_ATTEMPTS, ComparedChains
from erlport_bridge.programs.module_options import IntegerOption, ModelOption, Option, TextOption
from erlport_bridge.programs.sandbox import DEFAULT_CODE_TIMEOUT_MS
from erlport_bridge.programs.text import quoted, suggestion
from erlport_bridge.programs.tool_agent import ToolAgent

# DSPy says so at each construction, and `describe_module` once.
warnings.filterwarnings("ignore", r".*(ProgramOfThought|CodeAct) is deprecated", DeprecationWarning)

Build = Callable[[Any, Mapping[str, Any], Sequence[Any]], dspy.Module]


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
        reserved_tools: Names that no tool may have, for the module has its own of that name.
        needs_sandbox: It runs code that a model wrote.
        runs_in_thread: It blocks a thread, which a deadline interrupts, but not while it waits for the model.
        is_streamed: The text of its fields is told of while the model writes it.
        optional_inputs: Inputs it takes beside the signature's, each with its type: as DSPy's, ``Any`` for any term.
        operation: The operation that does what it is for, where it is no module that can be executed.
        experimental: DSPy says that it may change.
        deprecated: What DSPy says of its future.
    """

    name: str
    summary: str
    build_module: Build
    options: tuple[Option, ...] = ()
    adds: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    takes_tools: bool = False
    reserved_tools: tuple[str, ...] = ()
    needs_sandbox: bool = False
    runs_in_thread: bool = False
    is_streamed: bool = True
    optional_inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    operation: str = "execute_module"
    experimental: bool = False
    deprecated: str | None = None

    def build(self, signature: Any, options: Mapping[str, Any], tools: Sequence[Any]) -> dspy.Module:
        """Build the module for a signature; ``options`` left out have their defaults."""
        defaults = {option.name: option.default for option in self.options}
        return self.build_module(signature, defaults | dict(options), tools)

    def check_options(self, given: Mapping[str, object], path: str) -> dict[str, Any]:
        """Give those options of the constructor that ``given`` holds, checked.

        Raises:
            OperationError: Of kind ``input``, with the path: an option has not the type, or is missing.
        """
        for option in self.options:
            if option.required and option.name not in given:
                where = f"{path}.{option.name}"
                raise OperationError("input", f"expected {option.description} at {where}", path=where)
        known = [option for option in self.options if option.name in given]
        return {option.name: option.read(given[option.name], f"{path}.{option.name}") for option in known}

    def describe(self) -> dict[str, Any]:
        """Give the entry as a term."""
        return {
            "name": self.name,
            "summary": self.summary,
            "operation": self.operation,
            "options": {option.name: option.describe() for option in self.options},
            "adds": list(self.adds),
            "reserved": list(self.reserved),
            "optional_inputs": list(self.optional_inputs),
            "takes_tools": self.takes_tools,
            "reserved_tools": list(self.reserved_tools),
            "needs_sandbox": self.needs_sandbox,
            "runs_in_thread": self.runs_in_thread,
            "cancellable": not self.runs_in_thread,
            "streamed": self.is_streamed,
            "experimental": self.experimental,
            "deprecated": self.deprecated,
        }


def _iterations(default: int, description: str) -> IntegerOption:
    return IntegerOption(name="max_iters", default=default, minimum=1, maximum=100, description=description)


_CODE_TIMEOUT: Final = IntegerOption(
    name="code_timeout",
    default=DEFAULT_CODE_TIMEOUT_MS,
    minimum=1,
    maximum=3_600_000,
    description="how long one piece of code may run, in ms, without the time of the tools that it calls",
)
_OF_THE_SANDBOX: Final = ("llm_query", "llm_query_batched", "SUBMIT", "print", "dspy")
_CODE_FIELDS: Final = ("generated_code", "interpreter", "max_iters", "interpreter_factory")
_REMOVED_IN_3_5: Final = "DSPy 3.5 removes it; dspy.RLM takes its place"


def _chain_of_thought(signature: Any, options: Mapping[str, Any], tools: Sequence[Any]) -> dspy.Module:
    asked = options["rationale_field"]
    return dspy.ChainOfThought(signature, rationale_field=None if asked is None else _reasoning_field(asked))


def _reasoning_field(description: str) -> Any:
    rationale = dspy.OutputField(desc=description)
    # DSPy takes the type of the field, which it does not have before it stands in a signature.
    rationale.annotation = str
    return rationale


def _rlm(signature: Any, options: Mapping[str, Any], tools: Sequence[Any]) -> dspy.Module:
    sub_lm = options["sub_lm"]
    module = dspy.RLM(
        signature,
        max_iters=options["max_iters"],
        max_llm_calls=options["max_llm_calls"],
        max_output_chars=options["max_output_chars"],
        tools=list(tools),
        sub_lm=None if sub_lm is None else sub_lm.lm,
    )
    return InThread(module, options["code_timeout"])


def _flex(signature: Any, options: Mapping[str, Any], tools: Sequence[Any]) -> dspy.Module:
    module = dspy.Flex(signature, tools=list(tools), max_predictor_calls=options["max_predictor_calls"])
    return InThread(module, options["code_timeout"])


def _never(signature: Any, options: Mapping[str, Any], tools: Sequence[Any]) -> dspy.Module:
    raise TypeError("this is no module: it is called by an operation of its own")


#: Everything that ``describe_module`` knows, by name.
ENTRIES: Final[Mapping[str, ModuleEntry]] = {
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
            _chain_of_thought,
            options=(TextOption(name="rationale_field", description="what the prompt says of the reasoning"),),
            adds=("reasoning",),
            reserved=("reasoning",),
        ),
        ModuleEntry(
            "dspy.ReAct",
            "lets the model call tools, one after the other, until it can give the output fields",
            lambda signature, options, tools: dspy.ReAct(signature, list(tools), options["max_iters"]),
            options=(_iterations(20, "most tool calls"),),
            adds=("reasoning", "trajectory"),
            reserved=("reasoning", "trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters"),
            takes_tools=True,
            reserved_tools=("finish",),
        ),
        ModuleEntry(
            "dspy.ReActV2",
            "lets the model call tools, several at a time too, in a conversation that goes on in another call",
            lambda signature, options, tools: ToolAgent(signature, list(tools), options["max_iters"]),
            options=(_iterations(20, "most turns before the output fields are asked for"),),
            adds=("history", "termination_reason"),
            reserved=("history", "tools", "termination_reason", "next_thought", "tool_calls", "max_iters"),
            takes_tools=True,
            reserved_tools=("submit",),
            # The output fields are arguments of a tool call.
            is_streamed=False,
            optional_inputs={"history": dspy.History},
            experimental=True,
        ),
        ModuleEntry(
            "dspy.ProgramOfThought",
            "has the model write Python code, runs it in a sandbox, and takes the output fields from its result",
            lambda signature, options, tools: ProgramOfThought(
                dspy.ProgramOfThought(signature, options["max_iters"]), options["code_timeout"]
            ),
            options=(_iterations(3, "most attempts at code that runs"), _CODE_TIMEOUT),
            adds=("reasoning",),
            reserved=("reasoning", "previous_code", "error", "final_generated_code", "code_output", *_CODE_FIELDS),
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            deprecated=_REMOVED_IN_3_5,
        ),
        ModuleEntry(
            "dspy.CodeAct",
            "has the model write Python code that calls tools, in a sandbox, until it can give the output fields",
            lambda signature, options, tools: CodeAct(signature, tools, options["max_iters"], options["code_timeout"]),
            options=(_iterations(5, "most pieces of code"), _CODE_TIMEOUT),
            adds=("reasoning", "trajectory"),
            reserved=("reasoning", "trajectory", "finished", *_CODE_FIELDS),
            takes_tools=True,
            reserved_tools=("SUBMIT", "print"),
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            deprecated=_REMOVED_IN_3_5,
        ),
        ModuleEntry(
            "dspy.RLM",
            "has the model read long inputs by code in a sandbox, which may ask a model again and call tools",
            _rlm,
            options=(
                _iterations(20, "most pieces of code"),
                IntegerOption(
                    name="max_llm_calls",
                    default=50,
                    minimum=0,
                    maximum=10_000,
                    description="most requests to the model that the code makes",
                ),
                IntegerOption(
                    name="max_output_chars",
                    default=10_000,
                    minimum=100,
                    maximum=1_000_000,
                    description="how much of what the code prints the model is shown",
                ),
                ModelOption(name="sub_lm", description="the model that the code asks, if not the call's own"),
                _CODE_TIMEOUT,
            ),
            adds=("trajectory", "final_reasoning"),
            reserved=("trajectory", "final_reasoning", "interpreter_factory", *_OF_THE_SANDBOX),
            takes_tools=True,
            reserved_tools=_OF_THE_SANDBOX,
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            experimental=True,
        ),
        ModuleEntry(
            "dspy.Flex",
            "a module whose code an optimiser writes; before that, dspy.Predict or, with tools, dspy.RLM",
            _flex,
            options=(
                IntegerOption(
                    name="max_predictor_calls",
                    default=100,
                    minimum=1,
                    maximum=10_000,
                    description="most modules that the code calls",
                ),
                _CODE_TIMEOUT,
            ),
            reserved=_OF_THE_SANDBOX,
            takes_tools=True,
            reserved_tools=_OF_THE_SANDBOX,
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            experimental=True,
        ),
        ModuleEntry(
            "dspy.MultiChainComparison",
            "compares several answers with their reasoning and gives the best; makes the answers itself where the "
            'input "completions" brings none',
            lambda signature, options, tools: ComparedChains(signature, options["M"]),
            options=(
                IntegerOption(
                    name="M", default=3, minimum=2, maximum=MAX_ATTEMPTS, description="how many answers are compared"
                ),
            ),
            adds=("rationale",),
            reserved=(
                *("rationale", "reasoning", "completions"),
                *(f"reasoning_attempt_{number}" for number in range(1, MAX_ATTEMPTS + 1)),
            ),
            optional_inputs={"completions": Any},
        ),
        ModuleEntry(
            "dspy.Parallel",
            "runs a module for many inputs at the same time",
            _never,
            operation="execute_batch",
            is_streamed=False,
        ),
    )
}

#: The modules that can be executed, by name.
MODULES: Final[Mapping[str, ModuleEntry]] = {
    name: entry for name, entry in ENTRIES.items() if entry.operation == "execute_module"
}


def find_entry(name: object, path: str = "module") -> ModuleEntry:
    """Find what is known under a name.

    Raises:
        OperationError: Of kind ``module_not_found``; nothing is imported or looked up to find out.
    """
    wanted = arguments.text(name, path)
    entry = ENTRIES.get(wanted)
    if entry is None:
        remedy = suggestion(wanted, ENTRIES) or f"; known modules: {', '.join(MODULES)}"
        raise OperationError("module_not_found", f"unknown module {quoted(wanted)}{remedy}", path=path)
    return entry


def find_module(name: object, path: str = "module") -> ModuleEntry:
    """Find a module that can be executed.

    Raises:
        OperationError: Of kind ``module_not_found``; nothing is imported or looked up to find out. Of kind ``input``:
            what it does is done by another operation.
    """
    entry = find_entry(name, path)
    if entry.name not in MODULES:
        raise OperationError("input", f"{entry.name} is no module here; call {entry.operation} instead", path=path)
    return entry
