"""Parse signatures from Elixir, as text or as a map, and build DSPy classes without DSPy's own parser.

DSPy's parser imports any module that a type is named like, looks up its callers' local variables, and accepts text from
which it drops fields. Here a signature is parsed by this grammar, with limits, and the class is built from a dict::

    signature = field ("," field)* "->" field ("," field)*
    field     = name [":" type]

:mod:`.type_parser` has the grammar of types. A field without a type is text.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures.constraints import Constraints, with_pattern_in_prompt
from erlport_bridge.programs.signatures.field_names import Reserved, name_problem
from erlport_bridge.programs.signatures.field_type import NO_DEFAULT, FieldType
from erlport_bridge.programs.signatures.type_parser import TokenReader, parse_type
from erlport_bridge.programs.signatures.type_terms import SETTINGS, type_text
from erlport_bridge.programs.text import expected_text, quoted, suggestion, text_of
from erlport_bridge.term import shown, sorted_items

MAX_SIGNATURE_CHARACTERS: Final = 65_536
MAX_FIELDS: Final = 100

#: Names that no field may have, since DSPy uses them: parameters of its calls, and attributes of its signature classes.
#: Pydantic reserves every name that starts with ``model_``. The tests try all attributes.
RESERVED_NAMES: Final = frozenset(
    {
        *("config", "demos", "lm", "new_signature", "signature"),  # arguments of dspy.Predict
        *("completions", "instance", "self"),  # parameters of methods through which dspy.Predict passes inputs
        *("fields", "input_fields", "instructions", "output_fields"),  # attributes of a signature class
    }
)

#: Names that no input may have; as output names they are common and harmless. DSPy takes a map in an input named
#: ``prediction`` for a setting of the language model.
RESERVED_INPUT_NAMES: Final = frozenset({"prediction"})

# A field may be named "schema" or "json". Pydantic warns that it shadows a method, but DSPy's classes still work.
warnings.filterwarnings("ignore", r'Field name "\w+" in "\w+" shadows an attribute in parent', UserWarning)


@dataclass(frozen=True)
class Field:
    """An input or an output of a signature.

    Attributes:
        name: A Python identifier.
        type_text: The canonical text of the type, such as ``list[str]``.
        annotation: The type for DSPy, such as ``list[str]`` or ``dspy.Image``.
        description: The field's description in the prompt, if any.
        constraints: The constraints on the field's value.
        default: The value of an input that is left out; :data:`.field_type.NO_DEFAULT`: it is required.
    """

    name: str
    type_text: str
    annotation: Any
    description: str | None = None
    constraints: Constraints = ()
    default: Any = NO_DEFAULT


@dataclass(frozen=True)
class SignatureSpec:
    """A checked signature; hashable.

    Attributes:
        inputs: At least one input field, in the order of the prompt.
        outputs: At least one output field; no name is also an input's.
        instructions: The instructions for the model; ``None``: DSPy's default sentence.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    instructions: str | None

    @cached_property
    def input_names(self) -> frozenset[str]:
        """The names of the inputs."""
        return frozenset(field.name for field in self.inputs)

    @cached_property
    def output_names(self) -> frozenset[str]:
        """The names of the outputs."""
        return frozenset(field.name for field in self.outputs)

    @property
    def text(self) -> str:
        """The canonical text, such as ``question: str, k: int -> answer: list[str]``; without descriptions."""
        sides = (
            ", ".join(f"{field.name}: {field.type_text}" for field in side) for side in (self.inputs, self.outputs)
        )
        return " -> ".join(sides)


_NONE_RESERVED: Final = Reserved()


def parse_signature(
    source: object, *, instructions: str | None = None, reserved: Reserved = _NONE_RESERVED
) -> SignatureSpec:
    """Parse and check a signature from a term.

    Args:
        source: The text form (a string, an atom or a charlist), or a map with the keys ``inputs``, ``outputs`` and
            optionally ``instructions``. Keys are atoms or strings. Each side of a map is the text of that side, a list
            whose elements are ``"name"``, ``"name: type"``, ``{name, type}`` (as in a keyword list) or
            ``%{name: …, type: …, desc: …}``, or a map from names to types or to ``%{type: …, desc: …}``. The fields
            of a map are sorted by name.
        instructions: The instructions for the model. If the map has instructions too, they must be equal.
        reserved: The names that modules use themselves.

    Raises:
        OperationError: Of kind ``signature``, with the position in the text or the path in the map.
    """
    if isinstance(source, Mapping):
        inputs, outputs, own_instructions = _parse_map(source)
    else:
        (inputs, outputs), own_instructions = _parse_text(_source_text(source)), None
    given = _instructions(instructions, "instructions")
    if given is not None and own_instructions is not None and given != own_instructions:
        raise _error("instructions are given twice, in the signature and beside it; leave one out", "instructions")
    _check_names(inputs, outputs, reserved)
    return SignatureSpec(inputs, outputs, own_instructions if given is None else given)


@lru_cache(maxsize=512)
def build_signature(spec: SignatureSpec) -> type[dspy.Signature]:
    """Return the DSPy class of a checked signature: one class for equal signatures; callers must not modify it."""
    fields = {field.name: (field.annotation, _described(dspy.InputField, field)) for field in spec.inputs}
    fields |= {field.name: (field.annotation, _described(dspy.OutputField, field)) for field in spec.outputs}
    signature: type[dspy.Signature] = dspy.Signature(fields, spec.instructions)
    return signature


def _side_text(fields: tuple[Field, ...]) -> str:
    return ", ".join(f"{field.name}: {field.type_text}" for field in fields)


def _described(field_kind: Any, field: Field) -> Any:
    described = {} if field.description is None else {"desc": field.description}
    return with_pattern_in_prompt(field_kind(**described, **dict(field.constraints)), field.constraints)


def _source_text(source: object) -> str:
    text = text_of(source)
    if text is None:
        if isinstance(source, bytes):
            raise _error(expected_text("signature", source))
        forms = 'such as "question -> answer", or a map, such as %{inputs: "question", outputs: "answer"},'
        raise _error(f"expected text {forms} at signature, got {shown(source)}")
    return text


#: Longest text whose parsed fields are cached. Each call carries its signature, usually one of a few. Longer texts are
#: rare, and would fill the memory.
MAX_REMEMBERED_CHARACTERS: Final = 1_024


def _parse_text(text: str) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    return _remembered_fields(text) if len(text) <= MAX_REMEMBERED_CHARACTERS else _parse_fields(text)


def _parse_fields(text: str) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    reader = _reader(text, "signature", is_signature=True)
    inputs = tuple(_parse_side(reader, "inputs"))
    if not reader.take_mark("->"):
        reader.expected('"," or "->"', _remedy(reader))
    outputs = tuple(_parse_side(reader, "outputs"))
    if reader.next.kind != "end":
        reader.expected('"," or the end of the text', _remedy(reader))
    return inputs, outputs


_remembered_fields = lru_cache(maxsize=512)(_parse_fields)


def _reader(text: str, where: str, *, is_signature: bool = False) -> TokenReader:
    if len(text) > MAX_SIGNATURE_CHARACTERS:
        problem = f"expected at most {MAX_SIGNATURE_CHARACTERS} characters at {where}, got {len(text)}"
        raise _error(problem, where, limit=MAX_SIGNATURE_CHARACTERS)
    return TokenReader(text, where, is_signature=is_signature)


def _parse_side(reader: TokenReader, side: str) -> Iterable[Field]:
    if reader.next.kind == "end" or reader.next.text == "->":
        reader.fail(f"a signature without {side}", reader.next.position)
    yield _parse_field(reader)
    while reader.take_mark(","):
        yield _parse_field(reader)


def _parse_field(reader: TokenReader) -> Field:
    if reader.next.kind != "name":
        reader.expected("a field name", _remedy(reader))
    token = reader.take()
    problem = name_problem(token.text)
    if problem:
        reader.fail(problem, token.position)
    read = parse_type(reader, token.text) if reader.take_mark(":") else _TEXT_TYPE
    return _field(token.text, read)


def _field(name: str, read: FieldType) -> Field:
    return Field(name, read.text, read.annotation, read.description, read.constraints, read.default)


_TEXT_TYPE: Final = FieldType("str", str)


def _remedy(reader: TokenReader) -> str:
    if reader.lacks_arrow:  # of which the error tells
        return ""
    mark = reader.next.text if reader.next.kind == "mark" else ""
    return {
        "=": "; a default stands with the type: k: int(default=3)",
        "*": '; "*" has no meaning in a signature',
        "/": '; "/" has no meaning in a signature',
        "->": '; a signature has exactly one "->"',
    }.get(mark, "")


def _parse_map(source: Mapping[Any, Any]) -> tuple[tuple[Field, ...], tuple[Field, ...], str | None]:
    entries = _entries(source, ("inputs", "outputs", "instructions"), "signature")
    for side in ("inputs", "outputs"):
        if not entries.get(side):
            raise _error(f"a signature without {side}", f"signature.{side}")
    inputs = _map_side(entries["inputs"], "signature.inputs")
    outputs = _map_side(entries["outputs"], "signature.outputs")
    return inputs, outputs, _instructions(entries.get("instructions"), "signature.instructions")


def _map_side(side: object, where: str) -> tuple[Field, ...]:
    text = text_of(side)
    if text is not None:
        reader = _reader(text, where)
        fields = tuple(_parse_side(reader, where.rpartition(".")[2]))
        if reader.next.kind != "end":
            reader.expected('"," or the end of the text', _remedy(reader))
        return fields
    if isinstance(side, Mapping):
        _check_count(len(side), where)
        return tuple(_named_field(name, described, where) for name, described in sorted_items(side))
    if isinstance(side, list):
        _check_count(len(side), where)
        return tuple(_listed_field(entry, f"{where}[{index}]") for index, entry in enumerate(side))
    raise _error(f"expected a list or a map of fields at {where}, got {shown(side)}", where)


def _listed_field(entry: object, where: str) -> Field:
    # In JSON, as in the text of a stored program, a pair is a list.
    if isinstance(entry, tuple | list) and len(entry) == 2 and text_of(entry) is None:
        return _named_field(entry[0], entry[1], where)
    if isinstance(entry, Mapping):
        described = _entries(entry, ("name", *_FIELD_KEYS), where)
        if "name" not in described:
            raise _error(f"a field without a name at {where}", where)
        return _named_field(described.pop("name"), described, where)
    reader = _reader(_text_at(entry, where), where)
    field = _parse_field(reader)
    if reader.next.kind != "end":
        reader.expected("one field", _remedy(reader))
    return field


def _named_field(name_term: object, described: object, side: str) -> Field:
    name = _text_at(name_term, side, what="the name of a field of ")
    problem = name_problem(name)
    if problem:
        raise _error(f"{problem} at {side}", side)
    where = f"{side}.{name}"
    if isinstance(described, Mapping) and all(text_of(key) in _FIELD_KEYS for key in described):
        settings = _entries(described, _FIELD_KEYS, where)
        described = settings.pop("type", None)
        if settings:
            described = ("str" if described is None else described, list(settings.items()))
    return _field(name, _type_at(described, name, where))


# A map with any other key is an object type with these fields.
_FIELD_KEYS: Final = ("type", *SETTINGS)


def _type_at(term: object, name: str, where: str) -> FieldType:
    if term is None:
        return _TEXT_TYPE
    reader = _reader(type_text(term, where), where)
    parsed = parse_type(reader, name)
    if reader.next.kind != "end":
        reader.expected("the end of the type", _remedy(reader))
    return parsed


def _instructions(term: object, where: str) -> str | None:
    if term is None:
        return None
    text = _text_at(term, where)
    return text if text.strip() else None


def _entries(source: Mapping[Any, Any], known: tuple[str, ...], where: str) -> dict[str, Any]:
    entries = {}
    for key, entry in sorted_items(source):
        name = _text_at(key, where, what="a key of ")
        if name not in known:
            remedy = suggestion(name, known) or f"; known keys: {', '.join(known)}"
            raise _error(f"unknown key {quoted(name)} at {where}{remedy}", where)
        entries[name] = entry
    return entries


def _text_at(term: object, where: str, *, what: str = "") -> str:
    text = text_of(term)
    if text is None:
        raise _error(expected_text(what + where, term), where)
    return text


def _check_count(count: int, where: str) -> None:
    if count > MAX_FIELDS:
        raise _error(f"expected at most {MAX_FIELDS} fields at {where}, got {count}", where, limit=MAX_FIELDS)


def _check_names(inputs: tuple[Field, ...], outputs: tuple[Field, ...], reserved: Reserved) -> None:
    _check_count(len(inputs) + len(outputs), "signature")
    for field in outputs:
        if field.default is not NO_DEFAULT:
            where = f"signature.outputs.{field.name}"
            raise _error(f'the output "{field.name}" has a default value; only inputs have one', where)
    seen: dict[str, str] = {}
    for side, fields in (("inputs", inputs), ("outputs", outputs)):
        for field in fields:
            name, where = field.name, f"signature.{side}.{field.name}"
            if name in seen:
                sides = f"twice among the {side}" if seen[name] == side else "among the inputs and among the outputs"
                raise _error(f'field "{name}" stands {sides}', where)
            seen[name] = side
            of_dspy = name in RESERVED_NAMES or name.startswith("model_")
            if of_dspy or (side == "inputs" and name in RESERVED_INPUT_NAMES):
                raise _error(f'field name "{name}" is reserved by DSPy; choose another name', where)
            if owner := reserved.owner(name, of_input=side == "inputs"):
                raise _error(f'field name "{name}" is reserved by {owner}; choose another name', where)


def _error(message: str, where: str = "signature", *, limit: int | None = None) -> OperationError:
    return OperationError("signature", message, path=where, limit=limit)
