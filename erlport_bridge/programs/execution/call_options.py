"""The options of a call: which there are, and their values as they were checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.models import (
    GENERATION_SETTINGS,
    AdapterChoice,
    LanguageModel,
    read_adapter,
    read_settings,
)
from erlport_bridge.programs.modules import EMBEDDER, ModelOption, Vector, read_vector
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
from erlport_bridge.term import shown

_MAX_PARSE_RETRIES: Final = 10
# What the other side reads of the same options, so that a misspelt one comes here.
_OF_ELIXIR: Final = ("pool", "serialization_format", "progress")
# Names that others have for an option.
_OTHER_NAMES: Final = {"model": "lm", "llm": "lm", "language_model": "lm", "timeout_ms": "timeout", "examples": "demos"}


class _AdapterOption(Option):
    """The name of an adapter, or a map with its options."""

    def _read(self, value: object, path: str) -> AdapterChoice:
        return read_adapter(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "adapter"}


class _DemosOption(Option):
    """A list of maps of fields."""

    def _read(self, value: object, path: str) -> tuple[Mapping[str, Any], ...]:
        if not isinstance(value, list):
            raise OperationError("input", f"expected a list of maps at {path}, got {shown(value)}", path=path)
        return tuple(arguments.options(item, f"{path}[{index}]") for index, item in enumerate(value))

    def _type(self) -> dict[str, Any]:
        return {"type": "examples"}


class _VectorOption(Option):
    """A list of numbers."""

    def _read(self, value: object, path: str) -> Vector:
        return read_vector(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "list[float]"}


_DEMOS: Final = _DemosOption(name="demos", description="examples for the prompt: maps of fields")
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
    description="how often an answer that does not keep to the signature is asked for again",
)
#: What every call takes beside the generation settings.
COMMON_OPTIONS: Final = Vocabulary(
    TimeoutOption(name="timeout", description="the budget of the whole call"),
    TextOption(name="session_id", description="the session whose model is asked, or whose program is run"),
    TextOption(name="request_id", description="a name for the call: in its errors and log lines, and for cancel"),
    ModelOption(name="lm", description="the model of this call; a list: fallback models follow the first"),
    _AdapterOption(name="adapter", description='the prompt format: "chat", "json", "xml", "two_step", or a map'),
    BooleanOption(name="allow_urls", default=False, description="values may be addresses, for the provider to fetch"),
    BooleanOption(name="strict", default=False, description="an option that means nothing here is an error"),
)
#: What the call of a module takes.
MODULE_CALL_OPTIONS: Final = COMMON_OPTIONS | Vocabulary(_DEMOS, _TOOLS, _PARSE_RETRIES)
#: Of what names a version of a stored program.
VERSION_OPTION: Final = IntegerOption(
    name="version", minimum=1, description="the version of the program; the newest if left out"
)
#: What the call of a stored program takes; ``demos`` and ``tools`` are ignored with a warning.
PROGRAM_CALL_OPTIONS: Final = MODULE_CALL_OPTIONS | Vocabulary(
    VERSION_OPTION,
    EMBEDDER,
    _VectorOption(name="vector", description="in place of an embedder: the vector of the inputs"),
    TextOption(name="conversation", description="whose conversation this is, with a program that has a history"),
)
#: What an operation takes that calls a stored program many times.
MANY_CALLS_OPTIONS: Final = COMMON_OPTIONS | Vocabulary(VERSION_OPTION)


@dataclass(frozen=True)
class CallOptions:
    """The options of one call, checked.

    Attributes:
        timeout_ms: The whole budget of the call; ``None``: no limit.
        settings: Generation settings for the model.
        demos: Examples for the prompt.
        parse_retries: How often an answer that does not keep to the signature is asked for again.
        allow_urls: Values may be addresses.
        warnings: What was given and means nothing here.
        version: Of a stored program; ``None``: the newest.
        embedder: For a stored program that chooses its examples by vectors.
        vector: In its place: that of the inputs.
        conversation: The id of the conversation that goes on, with a stored program that keeps conversations.
        strict: What is given and means nothing is an error.
    """

    timeout_ms: int | None = None
    session_id: str | None = None
    request_id: str | None = None
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
    strict: bool = False


def read_call_options(
    given: Mapping[str, Any], vocabulary: Vocabulary, *, spec: ModuleSpec | None = None, own: Collection[str] = ()
) -> CallOptions:
    """Read the options of a call.

    Args:
        given: The options by name.
        vocabulary: Those that a call of this kind takes, beside the generation settings.
        spec: The module that is called; ``None``: a stored program, whose modules have their options already.
        own: Names that are options of the operation itself.

    Raises:
        OperationError: Of kind ``input``, with the path ``opts.…``: a value is wrong, or the name of an option is
            misspelt. Another name that means nothing here is a warning, and an error where the call is ``strict``.
    """
    called = spec.entry.name if spec else "a stored program"
    known = {*vocabulary, *GENERATION_SETTINGS, *own, *(spec.entry.option_names if spec else ())}
    unknown = [name for name in given if name not in known]
    for name in unknown:
        meant = _OTHER_NAMES.get(name) or misspelt(name, known.union(_OF_ELIXIR))
        if meant is not None:
            raise _unknown_option(name, f'did you mean "{meant}"?')
    warnings = [f"{called} takes no option {quoted(name)}; it was ignored" for name in unknown]
    ignored = {name for name in ("tools", "demos") if name in vocabulary and not _is_taken(name, spec)}
    given_ignored = [name for name in ignored if given.get(name)]
    warnings += [f"{called} takes no {name}; they were ignored" for name in given_ignored]
    if warnings and arguments.boolean(given.get("strict"), "opts.strict"):
        raise _unknown_option(
            (unknown + given_ignored)[0],
            f"{called} takes no such option, and the call is strict; it takes {_listed(known)}",
        )
    read = vocabulary.read(given, "opts", skip={*ignored, *own})
    return CallOptions(
        timeout_ms=read.get("timeout"),
        session_id=read.get("session_id"),
        request_id=read.get("request_id"),
        model=read.get("lm"),
        adapter=read.get("adapter", AdapterChoice()),
        settings=read_settings({name: value for name, value in given.items() if name not in own}, "opts"),
        demos=read.get("demos", ()),
        parse_retries=read.get("parse_retries", 0),
        allow_urls=read.get("allow_urls", False),
        warnings=tuple(sorted(warnings)),
        version=read.get("version"),
        embedder=read.get("embedder"),
        vector=read.get("vector"),
        conversation=read.get("conversation"),
        strict=read.get("strict", False),
    )


def _is_taken(name: str, spec: ModuleSpec | None) -> bool:
    return spec is not None and (name == "demos" or any(entry.takes_tools for entry in spec.entries))


def _unknown_option(name: str, remedy: str) -> OperationError:
    path = f"opts.{quoted(name)[1:-1]}"
    return OperationError("input", f"unknown option {quoted(name)} at opts; {remedy}", path=path)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
