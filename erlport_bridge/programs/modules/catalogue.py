"""The catalogue of modules: which can be called, their options, and how each is built.

Every module that :meth:`ModuleEntry.build` returns can be awaited with ``acall`` and shared between calls: it keeps no
state of a call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.programs.modules import application_modules
from erlport_bridge.programs.modules.best_of_n import BestOfN, Refine
from erlport_bridge.programs.modules.code_modules import RLM, CodeAct, InThread, ProgramOfThought
from erlport_bridge.programs.modules.comparison import MAX_ATTEMPTS, ComparedChains
from erlport_bridge.programs.modules.module_entry import ModuleEntry, Parts
from erlport_bridge.programs.modules.module_options import (
    EMBEDDER,
    DataOption,
    FunctionOption,
    ModelOption,
    RewardOption,
)
from erlport_bridge.programs.modules.react import ReAct
from erlport_bridge.programs.modules.react_v2 import ToolAgent
from erlport_bridge.programs.modules.retrieval import MAX_COUNT, NearestExamples, Retrieve, Vectors
from erlport_bridge.programs.options import (
    IntegerOption,
    NumberOption,
    TextOption,
)
from erlport_bridge.programs.sandbox import DEFAULT_CODE_CALLS, DEFAULT_CODE_TIMEOUT_MS, CodeLimits
from erlport_bridge.programs.signatures import parse_signature
from erlport_bridge.programs.text import arguments, quoted, suggestion, text_of
from erlport_bridge.term import shown

# DSPy repeats this warning at each construction; `describe_module` reports the deprecation instead.
warnings.filterwarnings("ignore", r".*(ProgramOfThought|CodeAct) is deprecated", DeprecationWarning)


def _iterations(default: int, description: str) -> IntegerOption:
    return IntegerOption(name="max_iters", default=default, minimum=1, maximum=100, description=description)


_CODE_LIMITS: Final = (
    IntegerOption(
        name="code_timeout",
        default=DEFAULT_CODE_TIMEOUT_MS,
        minimum=1,
        maximum=3_600_000,
        description="how long one piece of code may run, in ms; the time of tool calls does not count",
    ),
    IntegerOption(
        name="max_code_calls",
        default=DEFAULT_CODE_CALLS,
        minimum=1,
        maximum=100_000,
        description="most calls of tools, models and modules that one piece of code makes",
    ),
)
_OF_THE_SANDBOX: Final = ("llm_query", "llm_query_batched", "SUBMIT", "print", "dspy")
_CODE_FIELDS: Final = ("generated_code", "interpreter", "max_iters", "interpreter_factory")
_REMOVED_IN_3_5: Final = "DSPy 3.5 removes it; dspy.RLM takes its place"


def _chain_of_thought(parts: Parts) -> dspy.Module:
    asked = parts.options["rationale_field"]
    if asked is not None and "reasoning" in parts.signature.output_fields:
        message = 'the signature has an output "reasoning" of its own, and its description is for the prompt'
        raise ValueError(f"{message}; leave out rationale_field")
    return dspy.ChainOfThought(parts.signature, rationale_field=None if asked is None else _reasoning_field(asked))


def _reasoning_field(description: str) -> Any:
    rationale = dspy.OutputField(desc=description)
    # DSPy reads the annotation of the field, which a field has only once it is part of a signature.
    rationale.annotation = str
    return rationale


def _code_limits(parts: Parts) -> CodeLimits:
    return CodeLimits(parts.options["code_timeout"], parts.options["max_code_calls"])


def _rlm(parts: Parts) -> dspy.Module:
    sub_lm = parts.options["sub_lm"]
    return RLM(
        parts.signature,
        _code_limits(parts),
        max_iters=parts.options["max_iters"],
        max_llm_calls=parts.options["max_llm_calls"],
        max_output_chars=parts.options["max_output_chars"],
        tools=list(parts.tools),
        sub_lm=None if sub_lm is None else sub_lm.lm,
    )


def _flex(parts: Parts) -> dspy.Module:
    most = parts.options["max_predictor_calls"]
    module = dspy.Flex(parts.signature, tools=list(parts.tools), max_predictor_calls=most)
    return InThread(module, _code_limits(parts))


def _code_act(parts: Parts) -> dspy.Module:
    return CodeAct(parts.signature, parts.tools, parts.options["max_iters"], _code_limits(parts))


def _never(parts: Parts) -> dspy.Module:
    raise TypeError("this is no module: it is called by an operation of its own")


def _retrieve(parts: Parts) -> dspy.Module:
    options, passages = parts.options, parts.options["passages"]
    searched = passages and Vectors(passages, options["vectors"], options["embedder"])
    return Retrieve(options["retriever"], searched, passages or (), options["k"])


def _nearest_examples(parts: Parts) -> dspy.Module:
    options, names = parts.options, list(parts.signature.input_fields)
    return NearestExamples(names, options["trainset"], options["vectors"], options["embedder"], options["k"])


_NEAREST: Final = (
    IntegerOption(name="k", default=3, minimum=1, maximum=MAX_COUNT, description="how many are returned"),
    DataOption(name="vectors", of="vectors", description="vectors of the searched texts, if they are known"),
    EMBEDDER,
)


def _attempts(cls: type[BestOfN]) -> Callable[[Parts], dspy.Module]:
    def build(parts: Parts) -> dspy.Module:
        options = parts.options
        return cls(parts.module, options["N"], options["reward"], options["threshold"], options["fail_count"])

    return build


_ATTEMPT_OPTIONS: Final = (
    IntegerOption(name="N", aliases=("n",), default=3, minimum=1, maximum=100, description="most attempts"),
    RewardOption(name="reward", required=True, description="how good a prediction is: a function, or a check"),
    NumberOption(name="threshold", description="a reward that ends the attempts; by default all are made"),
    IntegerOption(
        name="fail_count",
        default=None,
        minimum=0,
        maximum=100,
        description="how many attempts may fail; by default all but one",
    ),
)


_OF_DSPY: Final = {
    entry.name: entry
    for entry in (
        ModuleEntry(
            "dspy.Predict",
            "asks the model once for the output fields",
            lambda parts: dspy.Predict(parts.signature),
        ),
        ModuleEntry(
            "dspy.ChainOfThought",
            "asks the model to reason before it gives the output fields",
            _chain_of_thought,
            options=(TextOption(name="rationale_field", description="what the prompt says about the reasoning"),),
            adds=("reasoning",),
            reserved_inputs=("reasoning",),
        ),
        ModuleEntry(
            "dspy.ReAct",
            "lets the model call tools, one after the other, until it can give the output fields",
            lambda parts: ReAct(parts.signature, parts.tools, parts.options["max_iters"]),
            options=(_iterations(20, "most tool calls"),),
            adds=("reasoning", "trajectory"),
            reserved=("trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters"),
            reserved_inputs=("reasoning",),
            takes_tools=True,
            reserved_tools=("finish",),
        ),
        ModuleEntry(
            "dspy.ReActV2",
            "lets the model call tools, also several at once, in a conversation that a later call can continue",
            lambda parts: ToolAgent(parts.signature, parts.tools, parts.options["max_iters"]),
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
            lambda parts: ProgramOfThought(parts.signature, parts.options["max_iters"], _code_limits(parts)),
            options=(_iterations(3, "most attempts at code that runs"), *_CODE_LIMITS),
            adds=("reasoning",),
            reserved=("previous_code", "error", "final_generated_code", "code_output", *_CODE_FIELDS),
            reserved_inputs=("reasoning",),
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            deprecated=_REMOVED_IN_3_5,
        ),
        ModuleEntry(
            "dspy.CodeAct",
            "has the model write Python code that calls tools, in a sandbox, until it can give the output fields",
            _code_act,
            options=(_iterations(5, "most pieces of code"), *_CODE_LIMITS),
            adds=("reasoning", "trajectory"),
            reserved=("trajectory", "finished", *_CODE_FIELDS),
            reserved_inputs=("reasoning",),
            takes_tools=True,
            reserved_tools=("SUBMIT", "print"),
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            deprecated=_REMOVED_IN_3_5,
        ),
        ModuleEntry(
            "dspy.RLM",
            "has the model read long inputs by code in a sandbox, which may call a model and tools",
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
                    description="how many characters of the code's output the model sees",
                ),
                ModelOption(name="sub_lm", description="the model for requests of the code; by default the call's"),
                *_CODE_LIMITS,
            ),
            adds=("trajectory", "final_reasoning"),
            reserved=("trajectory", "final_reasoning", "interpreter_factory", *_OF_THE_SANDBOX),
            takes_tools=True,
            reserved_tools=_OF_THE_SANDBOX,
            asks_besides=True,
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
                *_CODE_LIMITS,
            ),
            reserved=_OF_THE_SANDBOX,
            takes_tools=True,
            reserved_tools=_OF_THE_SANDBOX,
            asks_besides=True,
            needs_sandbox=True,
            runs_in_thread=True,
            is_streamed=False,
            experimental=True,
        ),
        ModuleEntry(
            "dspy.MultiChainComparison",
            "compares several answers with their reasoning and returns the best; asks for the answers itself if the "
            'input "completions" brings none',
            lambda parts: ComparedChains(parts.signature, parts.options["M"]),
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
            "dspy.BestOfN",
            "runs a module several times and returns the prediction with the best reward",
            _attempts(BestOfN),
            options=_ATTEMPT_OPTIONS,
            takes_module=True,
            # Which attempt counts is known only at the end.
            is_streamed=False,
        ),
        ModuleEntry(
            "dspy.Refine",
            "like dspy.BestOfN; after each attempt the model advises how the next one can be better",
            _attempts(Refine),
            options=_ATTEMPT_OPTIONS,
            reserved=("hint_",),
            asks_besides=True,
            takes_module=True,
            is_streamed=False,
        ),
        ModuleEntry(
            "dspy.Retrieve",
            "returns the passages nearest to a query, by a function of the caller or by embeddings; calls no model",
            _retrieve,
            options=(
                *_NEAREST,
                FunctionOption(name="retriever", takes="query, k", description="returns a list of texts"),
                DataOption(name="passages", of="texts", description="the texts that are searched"),
            ),
            alternatives=("retriever", "passages"),
            signature=parse_signature("query -> passages: list[str]"),
            optional_inputs={"k": int, "vector": list[float]},
            asks_model=False,
            is_streamed=False,
        ),
        ModuleEntry(
            "dspy.KNN",
            "returns the examples nearest to the inputs, by embeddings; calls no model",
            _nearest_examples,
            options=(
                *_NEAREST,
                DataOption(name="trainset", of="examples", required=True, description="maps of fields"),
            ),
            outputs=parse_signature("inputs -> examples: list[dict]").outputs,
            optional_inputs={"vector": list[float]},
            asks_model=False,
            is_streamed=False,
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

#: All entries by name, for ``describe_module``: DSPy's modules and the application's.
ENTRIES: Final[Mapping[str, ModuleEntry]] = _OF_DSPY | application_modules.from_environment()

_ABBREVIATIONS: Final = {"cot": "dspy.ChainOfThought", "pot": "dspy.ProgramOfThought"}

#: The modules that can be executed, by name.
MODULES: Final[Mapping[str, ModuleEntry]] = {
    name: entry for name, entry in ENTRIES.items() if entry.operation == "execute_module"
}


def find_entry(name: object, path: str = "module") -> ModuleEntry:
    """Return the entry of a name.

    Raises:
        OperationError: Of kind ``module_not_found``. The name is only looked up here; nothing is imported for it.
    """
    if text_of(name) is None and not isinstance(name, bytes):
        forms = 'such as "dspy.Predict", or a map such as %{module: "dspy.Predict", signature: "question -> answer"},'
        raise OperationError("input", f"expected the name of a module, {forms} at {path}, got {shown(name)}", path=path)
    wanted = arguments.text(name, path, NAME_BYTES)
    entry = ENTRIES.get(wanted)
    if entry is None:
        raise OperationError("module_not_found", f"unknown module {quoted(wanted)}{_remedy(wanted)}", path=path)
    return entry


def _remedy(wanted: str) -> str:
    if "->" in wanted:
        return ', which is a signature; the module comes before it: ("dspy.Predict", "question -> answer", …)'
    # An alias of Elixir, `Dspy.Predict`, is the atom "Elixir.Dspy.Predict".
    name = wanted.removeprefix("Elixir.")
    meant = _ABBREVIATIONS.get(name.rpartition(".")[2].lower())
    hint = f' (did you mean "{meant}"?)' if meant else suggestion(name, ENTRIES)
    return hint or f"; known modules: {', '.join(MODULES)}"


def find_module(name: object, path: str = "module") -> ModuleEntry:
    """Return the entry of a module that ``execute_module`` can run.

    Raises:
        OperationError: Of kind ``module_not_found``, as :func:`find_entry`. Of kind ``input``: another operation
            does what the module is for.
    """
    entry = find_entry(name, path)
    if entry.name not in MODULES:
        raise OperationError("input", f"{entry.name} is no module here; call {entry.operation} instead", path=path)
    return entry
