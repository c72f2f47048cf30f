"""Read the options of a call, by the vocabulary of its operation, into one checked value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import DEMOS, ID_BYTES, OPTIONS
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.execution.trace_options import BEGINS_TRACE, CALLED_AT, TRACE, TRACEPARENT
from erlport_bridge.programs.models import (
    BUDGET_OPTIONS,
    GENERATION_SETTINGS,
    MODEL_OPTIONS,
    SHARED_BUDGETS,
    AdapterChoice,
    BudgetLimits,
    LanguageModel,
    SharedBudget,
    read_adapter,
    read_settings,
)
from erlport_bridge.programs.modules import EMBEDDER, FunctionOption, ModelOption, RewardOption, Vector, read_vector
from erlport_bridge.programs.options import (
    BooleanOption,
    IntegerOption,
    Option,
    TextOption,
    TimeoutOption,
    UnreadOption,
    Vocabulary,
)
from erlport_bridge.programs.pipelines import ModuleSpec
from erlport_bridge.programs.text import arguments, misspelt, quoted
from erlport_bridge.programs.tools import ElixirTool, read_tools
from erlport_bridge.term import shown

_MAX_PARSE_RETRIES: Final = 10
# Options that the Elixir side reads and does not send: only a misspelt one arrives here.
_OF_ELIXIR: Final = ("pool", "serialization_format", "retry", "progress", "metadata")
# Options that say whose call it is and how long it may take, and nothing about what is called.
_OF_EVERY_CALL: Final = frozenset(
    {
        *("timeout", "session_id", "request_id", "caller", "caller_context"),
        *(option.name for option in (TRACE, TRACEPARENT, BEGINS_TRACE, CALLED_AT)),
    }
)
# Names that other libraries use, with the option that is meant.
_OTHER_NAMES: Final = {
    "model": "lm",
    "llm": "lm",
    "language_model": "lm",
    "timeout_ms": "timeout",
    "examples": "demos",
    "session": "session_id",
    # DSPy's.
    "reward_fn": "reward",
    "module": "of",
    "num_threads": "max_concurrency",
}


class _AdapterOption(Option):
    """An adapter: its name, or a map with its options."""

    def _read(self, value: object, path: str) -> AdapterChoice:
        return read_adapter(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "adapter"}


class _DemosOption(Option):
    """Demos: a list of maps of fields."""

    def _read(self, value: object, path: str) -> tuple[Mapping[str, Any], ...]:
        if not isinstance(value, list) or (value and arguments.is_keyword_list(value)):
            # A keyword list is one map.
            raise OperationError("input", f"expected a list of maps at {path}, got {shown(value)}", path=path)
        DEMOS.check(len(value), path)
        return tuple(arguments.options(item, f"{path}[{index}]") for index, item in enumerate(value))

    def _type(self) -> dict[str, Any]:
        return {"type": "examples"}


class _VectorOption(Option):
    """An embedding: a list of numbers."""

    def _read(self, value: object, path: str) -> Vector:
        return read_vector(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "list[float]"}


class _ResolverOption(TextOption):
    """The id of the resolver of exported functions, which becomes one of the functions of the call."""

    def _read(self, value: object, path: str) -> str:
        resolver = super()._read(value, path)
        callbacks.collect(callbacks.RESOLVER, resolver)
        return resolver


_DEMOS: Final = _DemosOption(name="demos", description="few-shot examples for the prompt: maps of fields")
_TOOLS: Final = UnreadOption(
    name="tools",
    type_text="tools",
    description="tools that the model may call: names, and functions of Elixir with their description",
)
_PARSE_RETRIES: Final = IntegerOption(
    name="parse_retries",
    default=0,
    minimum=0,
    maximum=_MAX_PARSE_RETRIES,
    expected="",
    description="how often the model is asked again after an answer that does not fit the signature",
)
#: The options of every call, besides the generation settings.
COMMON_OPTIONS: Final = Vocabulary(
    TimeoutOption(name="timeout", description="the budget of the whole call"),
    TextOption(
        name="session_id", limit=ID_BYTES, description="the session whose model is called, or whose program is run"
    ),
    TextOption(
        name="request_id", limit=ID_BYTES, description="a name for the call, for its errors, its log lines and cancel"
    ),
    TextOption(
        name="caller", limit=ID_BYTES, description="whose call it is: callers take turns for what calls wait for"
    ),
    TRACE,
    TRACEPARENT,
    BEGINS_TRACE,
    CALLED_AT,
    ModelOption(name="lm", description="the model of this call; in a list, fallback models follow the first"),
    _AdapterOption(name="adapter", description='the prompt format: "chat", "json", "xml", "two_step", or a map'),
    BooleanOption(name="allow_urls", default=False, description="media may be URLs, which the provider fetches"),
    BooleanOption(name="strict", default=False, description="an option that means nothing here is an error"),
    TextOption(
        name="caller_context",
        is_internal=True,
        description="what Elixir gets back with log entries and functions, to know for whom they are",
    ),
    TextOption(
        name="redact",
        is_internal=True,
        limit=ID_BYTES,
        description="the id of the function that redacts texts before they are kept",
    ),
    *BUDGET_OPTIONS.values(),
    SHARED_BUDGETS,
)
#: The options of a module call.
MODULE_CALL_OPTIONS: Final = COMMON_OPTIONS | Vocabulary(_DEMOS, _TOOLS, _PARSE_RETRIES)
#: The option of every operation that names a version of a stored program.
VERSION_OPTION: Final = IntegerOption(
    name="version", minimum=1, description="the version of the program; the newest if left out"
)
# Functions outlive no call, so each call of a stored program that needs them brings them.
_FUNCTIONS: Final = Vocabulary(
    EMBEDDER,
    RewardOption(name="reward", description="the function of a stored program whose modules need a reward"),
    FunctionOption(
        name="retriever", takes="query, k", description="the function of a stored program whose modules need one"
    ),
)
_RESOLVER: Final = _ResolverOption(
    name="resolver",
    is_internal=True,
    limit=ID_BYTES,
    description="the id by which Elixir finds exported functions",
)
#: The options of a stored program's call; ``demos`` are ignored with a warning.
PROGRAM_CALL_OPTIONS: Final = (
    MODULE_CALL_OPTIONS
    | _FUNCTIONS
    | Vocabulary(
        VERSION_OPTION,
        _RESOLVER,
        _VectorOption(name="vector", description="the embedding of the inputs, in place of an embedder"),
        TextOption(
            name="conversation",
            limit=ID_BYTES,
            description="whose conversation this is, with a program that has a history",
        ),
        TextOption(
            name="repetition",
            is_internal=True,
            limit=ID_BYTES,
            description="what the call has in common with its repetition, and with no other call",
        ),
    )
)
#: The options of an operation that calls a stored program many times.
MANY_CALLS_OPTIONS: Final = COMMON_OPTIONS | _FUNCTIONS | Vocabulary(_TOOLS, VERSION_OPTION, _RESOLVER)


@dataclass(frozen=True)
class CallOptions:
    """The options of one call, checked.

    Attributes:
        timeout_ms: The budget of the whole call; ``None``: no limit.
        settings: Generation settings for the model.
        demos: Few-shot examples for the prompt.
        parse_retries: How often the model is asked again after an answer that does not fit the signature.
        allow_urls: Whether media may be given as URLs, which the provider fetches.
        warnings: One sentence for each ignored option.
        version: The version of a stored program; ``None``: the newest.
        embedder: The function of Elixir that embeds the inputs, for a stored program that chooses its demos by
            embeddings.
        vector: The embedding of the inputs, in place of ``embedder``.
        conversation: The id of the conversation that the call continues, for a stored program with a history.
        repetition: What the call has in common with its repetition by the caller's pool, and with no other call.
        strict: Whether an option that has no effect is an error.
        tools: The tools that a call of a stored program brings; the tools of a module's call are the module's.
        functions: The names of the options by which a call of a stored program brings functions.
        context: What Elixir gets back with log entries and with calls of functions.
        redact: The id of the function of Elixir that redacts texts for the history.
        limits: What the call may spend on models.
        budgets: The budgets that the call shares with calls in other Pythons.
    """

    timeout_ms: int | None = None
    session_id: str | None = None
    request_id: str | None = None
    caller: str | None = None
    model: LanguageModel | None = None
    adapter: AdapterChoice = field(default_factory=AdapterChoice)
    settings: Mapping[str, Any] = field(default_factory=dict)
    demos: tuple[Mapping[str, Any], ...] = ()
    parse_retries: int = 0
    allow_urls: bool = False
    warnings: tuple[str, ...] = ()
    version: int | None = None
    embedder: ElixirFunction | None = None
    vector: Vector | None = None
    conversation: str | None = None
    repetition: str | None = None
    strict: bool = False
    tools: tuple[str | ElixirTool, ...] = ()
    functions: tuple[str, ...] = ()
    context: str | None = None
    redact: str | None = None
    limits: BudgetLimits = field(default_factory=BudgetLimits)
    budgets: tuple[SharedBudget, ...] = ()


#: The options that are values of a call as they are read, and their names there.
_FIELDS: Final = {
    **{
        name: name
        for name in (
            *("session_id", "request_id", "caller", "adapter", "demos", "parse_retries", "allow_urls", "version"),
            *("embedder", "vector", "conversation", "repetition", "strict", "redact", "budgets"),
        )
    },
    "timeout": "timeout_ms",
    "lm": "model",
    "caller_context": "context",
}


def read_call_options(
    given: Mapping[str, Any], vocabulary: Vocabulary, *, spec: ModuleSpec | None = None, own: Collection[str] = ()
) -> CallOptions:
    """Read the options of a call.

    Args:
        given: The options by name.
        vocabulary: The options of this kind of call, besides the generation settings.
        spec: The spec of the called module; ``None``: a stored program, whose modules already have their options.
        own: The names of the operation's own options.

    Raises:
        OperationError: Of kind ``input``, with the path ``opts.…``: a value is invalid, or the name of an option is
            misspelt. Any other unknown option is a warning, or an error if the call is ``strict``.
    """
    if given.keys() <= _OF_EVERY_CALL and not own:  # most calls
        return CallOptions(**_of_call(vocabulary.read(given, "opts")))
    OPTIONS.check(len(given), "opts")
    called = spec.entry.name if spec else "a stored program"
    of_module: Collection[str] = spec.entry.option_names if spec else ()
    unknown = [
        name
        for name in given
        if name not in vocabulary and name not in GENERATION_SETTINGS and name not in of_module and name not in own
    ]
    offered = {*vocabulary.offered, *GENERATION_SETTINGS, *of_module, *own}
    _check_spelling(unknown, offered)
    warnings = [f"{called} takes no option {quoted(name)}; it was ignored{_place(name)}" for name in unknown]
    ignored = {name for name in ("tools", "demos") if name in vocabulary and not _is_taken(name, spec)}
    given_ignored = [name for name in ignored if given.get(name)]
    warnings += [f"{called} takes no {name}; they were ignored" for name in given_ignored]
    if warnings and arguments.boolean(given.get("strict"), "opts.strict"):
        taken = ", ".join(sorted(offered - ignored))
        remedy = f"; {called} takes no such option, and the call is strict; it takes {taken}"
        raise _unknown_option((unknown + given_ignored)[0], remedy)
    read = vocabulary.read(given, "opts", skip={*ignored, *own})
    return CallOptions(
        settings=read_settings(given, "opts", skip=own),
        warnings=tuple(sorted(warnings)),
        tools=() if spec else _read_tools(read.get("tools")),
        functions=tuple([name for name in _FUNCTIONS if name in read]),
        limits=BudgetLimits.of(read),
        **_of_call(read),
    )


def check_spelling(given: Mapping[str, Any], own: Collection[str]) -> None:
    """Check that no option of an operation that calls a stored program many times is misspelt.

    Args:
        given: The options by name.
        own: The names of the operation's own options, as far as they are known.

    Raises:
        OperationError: Of kind ``input``, with the path ``opts.…``: a name misspells that of an option.
    """
    offered = {*MANY_CALLS_OPTIONS.offered, *GENERATION_SETTINGS, *own}
    _check_spelling([name for name in given if name not in offered and name not in MANY_CALLS_OPTIONS], offered)


def _check_spelling(unknown: Collection[str], known: Collection[str]) -> None:
    for name in unknown:
        if name in _OF_ELIXIR:  # taken by other functions of DSPex.Python, such as progress
            continue
        other = _OTHER_NAMES.get(name)
        meant = other if other in known else misspelt(name, {*_OF_ELIXIR, *known})
        if meant is not None:
            raise _unknown_option(name, f' (did you mean "{meant}"?)')


def _place(name: str) -> str:
    """Return where an option belongs that means nothing among those of a call; an empty string: nowhere."""
    return f": a model takes it, as lm: %{{provider: …, {name}: …}}" if name in MODEL_OPTIONS else ""


def _of_call(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a call by their names there; most calls bring few, and the others have their defaults."""
    return {_FIELDS[name]: value for name, value in read.items() if name in _FIELDS}


def _is_taken(name: str, spec: ModuleSpec | None) -> bool:
    if spec is None:  # a stored program
        return name == "tools"
    return name == "demos" or any(entry.takes_tools for entry in spec.entries)


def _read_tools(value: object) -> tuple[str | ElixirTool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of tools at opts.tools, got {shown(value)}", path="opts.tools")
    return read_tools(value, "opts.tools")


def _unknown_option(name: str, remedy: str) -> OperationError:
    path = f"opts.{quoted(name)[1:-1]}"
    return OperationError("input", f"unknown option {quoted(name)} at opts{remedy}", path=path)
