"""Read the spec of a module, as a caller wrote it, into a stage.

A spec is a name, or a map::

    %{module: "dspy.BestOfN", N: 3, threshold: 0.9, reward: …, of: %{module: "dspy.ChainOfThought", signature: …}}

Options stand in the map itself or under ``options``; the options of a call's outermost module may also stand among the
options of the call. The signature stands in one place: in the map of the module that uses it, in a map around that map,
or beside the spec.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import tools
from erlport_bridge.programs.modules import ModuleEntry, catalogue
from erlport_bridge.programs.pipelines import misplaced
from erlport_bridge.programs.pipelines.needs import by_call, spec_is_map
from erlport_bridge.programs.pipelines.stages import Stage
from erlport_bridge.programs.signatures import MAX_REMEMBERED_CHARACTERS, Reserved, SignatureSpec, parse_signature
from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.tools import ElixirTool
from erlport_bridge.term import shown

#: The deepest nesting of modules that run one another.
MAX_DEPTH: Final = 5

_SPEC_KEYS: Final = frozenset({"module", "signature", "instructions", "options", "tools"})
_OUTERMOST: Final = "spec"
_NONE_RESERVED: Final = Reserved()


class ModuleSpec(NamedTuple):
    """The spec of a module, read once; its options and its signature are not checked yet.

    Attributes:
        entry: The entry of the module in the catalogue.
        given: The caller's map; a name alone becomes a map with the key ``module``.
        listed: The map under ``options``.
        path: Where the spec stands in the call, for errors.
        is_map: Whether the caller gave more than a name.
        place: The path that errors name for a missing option: the spec itself, or the options of the call.
        of: The spec of the module that it runs.
        beside: The keys of the map that are not for the module, with their values; ``None`` if they are not given.
    """

    entry: ModuleEntry
    given: Mapping[str, Any]
    listed: Mapping[str, Any]
    path: str
    is_map: bool
    place: str
    of: ModuleSpec | None
    beside: Mapping[str, Any]

    @property
    def entries(self) -> list[ModuleEntry]:
        """The entries of the module, of the module that it runs, and so on."""
        return [self.entry, *(self.of.entries if self.of else [])]


@dataclass(frozen=True)
class CallPart:
    """The part of a call's options that is for its module, not checked yet.

    Attributes:
        options: Options of the module itself.
        tools: Tools for the first module that takes tools and has none in its spec.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    tools: object = None


NO_CALL: Final = CallPart()


@dataclass(frozen=True)
class SignatureSource:
    """The signature of a module whose own map has none.

    Attributes:
        read: Returns the signature. Its argument has the names that modules use themselves; a field of such a name is
            an error.
        path: Where the caller wrote the signature for this module, which then must not have another one in its own map;
            ``None``: the caller did not write it.
    """

    read: Callable[[Reserved], SignatureSpec]
    path: str | None = None

    def __call__(self, reserved: Reserved) -> SignatureSpec:
        """Return the signature; raise an error if a field has a reserved name."""
        return self.read(reserved)

    def with_instructions(self, instructions: str) -> SignatureSource:
        """Return this source with other instructions."""
        return replace(self, read=lambda reserved: replace(self.read(reserved), instructions=instructions))


def given_signature(source: object, path: str, instructions: object = None) -> SignatureSource:
    """Return a source for the signature that a caller wrote at ``path``; ``nil``: the spec must have one."""

    def read(reserved: Reserved) -> SignatureSpec:
        if source is None:
            message = f'expected a signature at {path}, such as "question -> answer"'
            raise OperationError("signature", message, path=path)
        text = arguments.optional_text(instructions, f"{path.rpartition('.')[0]}.instructions")
        return parse_signature(source, instructions=text, reserved=reserved)

    return SignatureSource(read, None if source is None else path)


def read_module_spec(
    given: object,
    path: str = _OUTERMOST,
    *,
    call: Mapping[str, Any] | None = None,
    beside: Collection[str] = (),
    depth: int = 1,
) -> ModuleSpec:
    """Read which module a spec names, and which modules that module runs.

    Args:
        given: A name, or a map as above.
        path: Where the spec stands in the call, for errors.
        call: The options of the call, if the spec is that of its outermost module; they may hold ``of``.
        beside: Keys of the map that are not for the module.
        depth: The nesting depth of the spec, counted from 1.

    Raises:
        OperationError: Of kind ``module_not_found`` or ``input``: a module is unknown, or modules run one another
            deeper than :data:`MAX_DEPTH`.
    """
    if call is not None and type(given) is str and len(given) <= MAX_REMEMBERED_CHARACTERS:  # most calls
        named = _named_spec(given)
        if not named.entry.takes_module:
            return named
    is_map = spec_is_map(given)
    spec = arguments.options(given, path) if is_map else {"module": given}
    apart = {name: spec.pop(name, None) for name in beside}
    entry = _entry(spec, path, beside, is_map=is_map)
    listed = arguments.options(spec.get("options"), f"{path}.options")
    place = path if is_map or call is None else "opts"
    of_path = f"{place}.of"
    of = None
    if entry.takes_module:
        inner = next((options["of"] for options in (spec, listed, call or {}) if options.get("of") is not None), None)
        if inner is not None and depth >= MAX_DEPTH:
            message = f"expected at most {MAX_DEPTH} modules that run one another, got another one at {of_path}"
            raise OperationError("input", message, path=of_path, limit=MAX_DEPTH)
        of = None if inner is None else read_module_spec(inner, of_path, depth=depth + 1)
    return ModuleSpec(entry, spec, listed, path, is_map, place, of, apart)


@functools.lru_cache(maxsize=512)
def _named_spec(name: str) -> ModuleSpec:
    """Return the spec of a call's outermost module of which only the name is given."""
    given = {"module": name}
    entry = _entry(given, _OUTERMOST, (), is_map=False)
    return ModuleSpec(entry, given, listed={}, path=_OUTERMOST, is_map=False, place="opts", of=None, beside={})


def stage_of_call(
    spec: ModuleSpec, signature: object, call: CallPart, *, otherwise: SignatureSpec | None = None
) -> Stage:
    """Return the stage for a call's module and its signature; ``otherwise`` is the signature if the call has none.

    Raises:
        OperationError: As :func:`stage_of`.
    """
    module = spec.given["module"]
    if (
        not spec.is_map
        and type(module) is str
        and type(signature) is str
        and len(module) + len(signature) <= MAX_REMEMBERED_CHARACTERS
        and call == NO_CALL
    ):
        return _named_stage(module, signature)
    source = given_signature(signature, "signature")
    if signature is None and otherwise is not None:
        source = SignatureSource(lambda _: otherwise)
    return stage_of(spec, source, call=call)


# The most frequent kind of call: the name of a module, a signature as text, and no options for the module itself.
@functools.lru_cache(maxsize=512)
def _named_stage(module: str, signature: str) -> Stage:
    return stage_of(read_module_spec(module, call={}), given_signature(signature, "signature"))


def stage_of(
    spec: ModuleSpec,
    signature: SignatureSource,
    *,
    call: CallPart = NO_CALL,
    reserved: Reserved = _NONE_RESERVED,
    stored: bool = False,
) -> Stage:
    """Return the stage for a spec, with its options, tools and signature checked.

    Args:
        spec: The spec, as :func:`read_module_spec` returns it.
        signature: The signature, for a module whose own map has none.
        call: What the options of the call say about the module.
        reserved: The field names that the surrounding modules use themselves.
        stored: The stage outlives the call, so it must not contain functions of Elixir.

    Raises:
        OperationError: An option, a tool or the signature is invalid; the error has its path.
    """
    entry, path = spec.entry, spec.path
    options = _options(spec, call, stored=stored)
    if stored:
        of_entry = {option.name: option for option in entry.options}
        options = {name: (by_call(of_entry[name], value), where) for name, (value, where) in options.items()}
    checked = entry.check_options(options, spec.place)
    given_tools, tools_path = spec.given.get("tools"), f"{path}.tools"
    if given_tools is None and entry.takes_tools:
        given_tools, tools_path, call = call.tools, "opts.tools", NO_CALL
    elif call.tools and entry.takes_tools:
        message = f"expected tools once, got them at {tools_path} and at opts.tools"
        raise OperationError("input", message, path="opts.tools")
    names = _read_tools(given_tools, entry, tools_path, stored=stored)
    reserved = entry.reserved_names | reserved
    signature = _own_signature(spec, signature)
    if not entry.takes_module:
        own = signature(reserved)
        own = replace(own, outputs=entry.outputs) if entry.outputs else own
        return Stage(entry, own, tuple(checked.items()), names)
    if spec.of is None:
        where = f"{spec.place}.of"
        raise OperationError("input", f"expected of (the module that {entry.name} runs) at {where}", path=where)
    of = stage_of(spec.of, signature, call=CallPart(tools=call.tools), reserved=reserved, stored=stored)
    return Stage(entry, of.spec, tuple(checked.items()), names, of)


def _entry(spec: Mapping[str, Any], path: str, beside: Collection[str], *, is_map: bool) -> ModuleEntry:
    if not is_map:
        return catalogue.find_module(spec["module"], "module" if path == _OUTERMOST else path)
    if "module" not in spec:
        arguments.only(spec, [*_SPEC_KEYS, *beside], "key", path)
        raise OperationError("input", f"expected the name of a module at {path}.module", path=f"{path}.module")
    return catalogue.find_module(spec["module"], f"{path}.module")


def _own_signature(read: ModuleSpec, outer: SignatureSource) -> SignatureSource:
    spec, entry, path = read.given, read.entry, read.path
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


def _options(spec: ModuleSpec, call: CallPart, *, stored: bool) -> dict[str, tuple[object, str]]:
    """Return the options of a module by their own names, each with its path."""
    if len(spec.given) == 1 and not call.options:  # the usual case: only a name
        return {}
    entry, path = spec.entry, spec.path
    known = {alias: option.name for option in entry.options for alias in (option.name, *option.aliases)}
    if entry.takes_module:
        known["of"] = "of"
    keys, hints = [*_SPEC_KEYS, *known, *spec.beside], misplaced.IN_STAGE if stored else misplaced.IN_MODULE
    arguments.only(spec.given, keys, f"key or option of {entry.name}", path, hints)
    arguments.only(spec.listed, known, f"option of {entry.name}", f"{path}.options", hints)
    found: dict[str, tuple[object, str]] = {}
    for options, where in ((call.options, "opts"), (spec.listed, f"{path}.options"), (spec.given, path)):
        for key, value in options.items():
            if key not in known:
                continue
            if known[key] in found:
                message = f"expected {known[key]} once, got it at {found[known[key]][1]} and at {where}.{key}"
                raise OperationError("input", message, path=f"{where}.{key}")
            found[known[key]] = value, f"{where}.{key}"
    found.pop("of", None)
    return found


def _read_tools(value: object, entry: ModuleEntry, path: str, *, stored: bool = False) -> tuple[str | ElixirTool, ...]:
    """Read a list of tools, which are names or functions of Elixir, for a module that takes tools."""
    if value is None or value == []:
        return ()
    if not entry.takes_tools:
        raise OperationError("input", f"{entry.name} takes no tools at {path}", path=path)
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of tools at {path}, got {shown(value)}", path=path)
    if stored:  # a keyword list describes a tool too
        value = [dict(item) if spec_is_map(item) else item for item in value]
    read = tools.read_tools(value, path, stored=stored)
    for index, tool in enumerate(read):
        name, where = tool.name if isinstance(tool, ElixirTool) else tool, f"{path}[{index}]"
        if name in entry.reserved_tools:
            message = f'the tool "{name}" at {where} has the name of one of {entry.name} itself; give it another one'
            raise OperationError("tool", message, path=where)
    return read
