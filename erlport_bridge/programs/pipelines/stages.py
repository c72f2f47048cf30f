"""One module with its signature, its options and the module that it runs: as data, read from what a caller wrote.

A spec is a name, or a map::

    %{module: "dspy.BestOfN", N: 3, threshold: 0.9, reward: …, of: %{module: "dspy.ChainOfThought", signature: …}}

Options stand in the map itself or under ``options``. The signature stands in one place: in the map of the module that
asks with it, in one around it, or beside the whole spec.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import callbacks, tools
from erlport_bridge.programs.modules import ModuleEntry, Option, catalogue
from erlport_bridge.programs.signatures import (
    MAX_REMEMBERED_CHARACTERS,
    SignatureSpec,
    build_signature,
    parse_signature,
)
from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.tools import ElixirTool
from erlport_bridge.term import shown

#: How deep modules may run one another.
MAX_DEPTH: Final = 5

_SPEC_KEYS: Final = frozenset({"module", "signature", "instructions", "options", "tools"})


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


@dataclass(frozen=True)
class CallPart:
    """What the options of a call say of its module.

    Attributes:
        options: Options of the module itself.
        tools: For the first module that takes tools and has none of its own.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    tools: object = None


NO_CALL: Final = CallPart()


@dataclass(frozen=True)
class SignatureSource:
    """Gives a module its signature, where its own map has none.

    Attributes:
        read: Gives it, if none of its fields is reserved; takes the reserved names with who reserves them.
        path: Where a caller wrote it for this module, so that the module's own map can have none; ``None``: nowhere.
    """

    read: Callable[[Mapping[str, str]], SignatureSpec]
    path: str | None = None

    def __call__(self, reserved: Mapping[str, str]) -> SignatureSpec:
        """Read it."""
        return self.read(reserved)

    def with_instructions(self, instructions: str) -> SignatureSource:
        """Give the same with other instructions."""
        return replace(self, read=lambda reserved: replace(self.read(reserved), instructions=instructions))


def given_signature(source: object, path: str, instructions: object = None) -> SignatureSource:
    """Give the signature that a caller wrote at ``path``; ``nil``: none, and it must stand in the spec."""

    def read(reserved: Mapping[str, str]) -> SignatureSpec:
        if source is None:
            message = f'expected a signature at {path}, such as "question -> answer"'
            raise OperationError("signature", message, path=path)
        text = arguments.optional_text(instructions, f"{path.rpartition('.')[0]}.instructions")
        return parse_signature(source, instructions=text, reserved=reserved)

    return SignatureSource(read, None if source is None else path)


def stage_of_call(
    module: object, signature: object, call: CallPart, *, otherwise: SignatureSpec | None = None
) -> Stage:
    """Read the module of a call and the signature beside it (``otherwise`` if there is none).

    Raises:
        OperationError: As :func:`read_stage`.
    """
    if (
        type(module) is str
        and type(signature) is str
        and len(module) + len(signature) <= MAX_REMEMBERED_CHARACTERS
        and call == NO_CALL
    ):
        return _named_stage(module, signature)
    source = given_signature(signature, "signature")
    if signature is None and otherwise is not None:
        source = SignatureSource(lambda _: otherwise)
    return read_stage(module, "spec", source, call=call)


# Most calls: a module that is only named, a signature as text, and no options for the module itself.
@functools.lru_cache(maxsize=512)
def _named_stage(module: str, signature: str) -> Stage:
    return read_stage(module, "spec", given_signature(signature, "signature"), call=CallPart())


def read_stage(
    given: object,
    path: str,
    signature: SignatureSource,
    *,
    call: CallPart = NO_CALL,
    reserved: Mapping[str, str] | None = None,
    stored: bool = False,
    depth: int = 1,
) -> Stage:
    """Read the spec of one module.

    Args:
        given: A name, or a map as above.
        path: Where it stands, for errors.
        signature: Whose signature it has if it has none of its own.
        call: What the options of the call say of it.
        reserved: Names that the modules around it use, with who does.
        stored: It outlives the call, so that it can have no functions of Elixir.
        depth: How deep it stands.

    Raises:
        OperationError: A module is unknown, an option or the signature is wrong; with its path.
    """
    spec = read_spec(given, path)
    entry = _entry(spec, given, path)
    options, inner = _options(spec, entry, path, call)
    # Where the rest of what a call says of its module stands, if the module is only named.
    place = path if spec_is_map(given) or call is NO_CALL else "opts"
    checked = entry.check_options(options, place)
    if stored:
        _refuse_functions(options)
    given_tools, tools_path = spec.get("tools"), f"{path}.tools"
    if given_tools is None and entry.takes_tools:
        given_tools, tools_path, call = call.tools, "opts.tools", NO_CALL
    names = read_tools(given_tools, entry, tools_path, stored=stored)
    reserved = dict.fromkeys(entry.reserved, entry.name) | dict(reserved or {})
    signature = _own_signature(spec, entry, signature, path)
    if not entry.takes_module:
        own = signature(reserved)
        own = replace(own, outputs=entry.outputs) if entry.outputs else own
        return Stage(entry, own, tuple(checked.items()), names)
    inner_path = f"{place}.of"
    if inner is None:
        raise OperationError(
            "input", f"expected of (the module that {entry.name} runs) at {inner_path}", path=inner_path
        )
    if depth >= MAX_DEPTH:
        message = f"expected at most {MAX_DEPTH} modules that run one another, got another one at {inner_path}"
        raise OperationError("input", message, path=inner_path)
    of = read_stage(
        inner,
        inner_path,
        signature,
        call=replace(call, options={}) if call.tools else NO_CALL,
        reserved=reserved,
        stored=stored,
        depth=depth + 1,
    )
    return Stage(entry, of.spec, tuple(checked.items()), names, of)


def entries_of(given: object, opts: Mapping[str, Any]) -> list[ModuleEntry]:
    """Give what the module of a call is, and those that it runs, before anything else of it is read.

    Raises:
        OperationError: Of kind ``module_not_found``: one of them is unknown.
    """
    entries: list[ModuleEntry] = []
    path = "spec"
    while len(entries) < MAX_DEPTH:
        spec = read_spec(given, path)
        entry = _entry(spec, given, path)
        entries.append(entry)
        options = spec.get("options")
        given = spec.get("of", options.get("of") if isinstance(options, Mapping) else None)
        if given is None and len(entries) == 1:
            given = opts.get("of")
        if given is None or not entry.takes_module:
            break
        path += ".of"
    return entries


def spec_is_map(given: object) -> bool:
    """Tell whether a spec is more than a name: a map, or a keyword list."""
    if isinstance(given, str):  # most are a name
        return False
    return isinstance(given, Mapping) or (
        isinstance(given, list) and bool(given) and all(isinstance(item, tuple) for item in given)
    )


def read_spec(given: object, path: str) -> dict[str, Any]:
    """Give a spec as a map."""
    return arguments.options(given, path) if spec_is_map(given) else {"module": given}


def _entry(spec: Mapping[str, Any], given: object, path: str) -> ModuleEntry:
    if not spec_is_map(given):
        return catalogue.find_module(spec["module"], "module" if path == "spec" else path)
    if "module" not in spec:
        arguments.only(spec, _SPEC_KEYS, "key", path)
        raise OperationError("input", f"expected the name of a module at {path}.module", path=f"{path}.module")
    return catalogue.find_module(spec["module"], f"{path}.module")


def _own_signature(spec: Mapping[str, Any], entry: ModuleEntry, outer: SignatureSource, path: str) -> SignatureSource:
    where, instructions = f"{path}.signature", spec.get("instructions")
    if entry.signature is not None:
        given_at = where if "signature" in spec else outer.path
        if given_at is not None:
            message = f"expected no signature at {given_at}: {entry.name} has its own, {entry.signature.text}"
            raise OperationError("signature", message, path=given_at)
        own = entry.signature
        return SignatureSource(lambda _: own)
    if "signature" in spec:
        if outer.path is not None:
            raise OperationError("signature", f"expected one signature, got another one at {where}", path=where)
        return given_signature(spec["signature"], where, instructions)
    if instructions is None:
        return outer
    return outer.with_instructions(arguments.text(instructions, f"{path}.instructions"))


def _options(
    spec: Mapping[str, Any], entry: ModuleEntry, path: str, call: CallPart
) -> tuple[dict[str, tuple[object, str]], object]:
    """Give the options of a module by their own names, each with its path; and the module that it runs."""
    if len(spec) == 1 and not call.options:  # most calls: a name
        return {}, None
    known = {alias: option.name for option in entry.options for alias in (option.name, *option.aliases)}
    if entry.takes_module:
        known["of"] = "of"
    arguments.only(spec, [*_SPEC_KEYS, *known], f"key or option of {entry.name}", path)
    listed = arguments.options(spec.get("options"), f"{path}.options")
    arguments.only(listed, known, f"option of {entry.name}", f"{path}.options")
    found: dict[str, tuple[object, str]] = {}
    for options, where in ((call.options, "opts"), (listed, f"{path}.options"), (spec, path)):
        for key, value in options.items():
            if key not in known:
                continue
            if known[key] in found:
                message = f"expected {known[key]} once, got it at {found[known[key]][1]} and at {where}.{key}"
                raise OperationError("input", message, path=f"{where}.{key}")
            found[known[key]] = value, f"{where}.{key}"
    inner, _ = found.pop("of", (None, ""))
    return found, inner


def _refuse_functions(options: Mapping[str, tuple[object, str]]) -> None:
    for value, where in options.values():
        if isinstance(value, Mapping) and "callback" in value:
            raise callbacks.refuse(where)


def read_tools(value: object, entry: ModuleEntry, path: str, *, stored: bool = False) -> tuple[str | ElixirTool, ...]:
    """Read a list of tools, names and functions of Elixir, for a module that takes tools."""
    if value is None or value == []:
        return ()
    if not entry.takes_tools:
        raise OperationError("input", f"{entry.name} takes no tools at {path}", path=path)
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of tools at {path}, got {shown(value)}", path=path)
    for index, item in enumerate(value):
        if stored and isinstance(item, Mapping):
            raise callbacks.refuse(f"{path}[{index}]")
    read = tools.read_tools(value, path)
    for index, tool in enumerate(read):
        name, where = tool.name if isinstance(tool, ElixirTool) else tool, f"{path}[{index}]"
        if name in entry.reserved_tools:
            message = f'the tool "{name}" at {where} has the name of one of {entry.name} itself; give it another one'
            raise OperationError("tool", message, path=where)
    return read
