"""Parse the type of a signature field from its text: ``list[str]``, ``int | None``, ``Literal["a", "b"]``.

DSPy resolves a type's text by importing modules of that name and by looking up the local variables of its callers. Here
any type outside :data:`KNOWN_TYPES` is an error; text never causes an import, an attribute access or an evaluation.

A parsed type has one canonical text, which parses to the same type again: ``string`` becomes ``str``, ``Image`` becomes
``dspy.Image``, quotes become double.

Grammar::

    type    = single ("|" single)*
    single  = (name | name "[" member ("," member)* "]" | object | "(" type ")") ["(" setting ("," setting)* ")"]
    object  = "{" name ":" type ("," name ":" type)* "}"
    member  = type | literal | "..."
    setting = name "=" (literal | number)
    literal = string | integer | "True" | "False" | "None"

An object is a map with the named fields. A setting is a constraint (``ge=0``, :mod:`.constraints`), ``desc="…"``, or
``default=3``. Constraints of a union, ``(int | None)(ge=0)``, hold for the members that take them. ``desc`` and
``default`` of a member belong to the whole union; inside of lists and other types they do not count.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, NoReturn, Optional, Union, get_args, get_origin

import dspy
from dspy.adapters.types.citation import Citations
from dspy.adapters.types.document import Document

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import hints
from erlport_bridge.programs.signatures.constraints import allowed, leaves_no_value, problem, takes_no
from erlport_bridge.programs.signatures.defaults import default_problem, read_default
from erlport_bridge.programs.signatures.field_names import name_problem
from erlport_bridge.programs.signatures.field_type import NO_DEFAULT, CompoundDefault, FieldType, choice_text
from erlport_bridge.programs.signatures.object_types import object_model
from erlport_bridge.programs.text import quoted
from erlport_bridge.term import shown

MAX_TYPE_DEPTH: Final = 20
#: Most members of one ``[…]`` or one ``A | B``, and most choices of one ``Literal``.
MAX_TYPE_MEMBERS: Final = 256
_MAX_INTEGER_DIGITS: Final = 19

#: Canonical name -> annotation, for every type that is valid without ``[…]``.
KNOWN_TYPES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "str": str,
        "int": int,
        "float": float,
        "bool": bool,
        "list": list,
        "dict": dict,
        "tuple": tuple,
        "set": set,
        "Any": Any,
        "None": type(None),
        "datetime": datetime.datetime,
        "date": datetime.date,
        "time": datetime.time,
        "Decimal": Decimal,
        "dspy.Image": dspy.Image,
        "dspy.Audio": dspy.Audio,
        "dspy.File": dspy.File,
        "dspy.History": dspy.History,
        "dspy.Code": dspy.Code,
        "dspy.Reasoning": dspy.Reasoning,
        "dspy.Document": Document,
        "dspy.Citations": Citations,
        "dspy.Tool": dspy.Tool,
        "dspy.ToolCalls": dspy.ToolCalls,
    }
)

_ALIASES: Final[Mapping[str, str]] = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "any": "Any",
    "array": "list",
    "map": "dict",
    "object": "dict",
    "decimal": "Decimal",
    "nil": "None",
    "code": "dspy.Code",
    "document": "dspy.Document",
    "citations": "dspy.Citations",
    "tool": "dspy.Tool",
    "tool_calls": "dspy.ToolCalls",
    **{name: f"dspy.{name.capitalize()}" for name in ("image", "audio", "file", "history", "reasoning")},
    "List": "list",
    "Dict": "dict",
    "Tuple": "tuple",
    "Set": "set",
    "NoneType": "None",
    "datetime.datetime": "datetime",
    "datetime.date": "date",
    "datetime.time": "time",
    "decimal.Decimal": "Decimal",
    **{name.removeprefix("dspy."): name for name in KNOWN_TYPES if name.startswith("dspy.")},
}

# Types with type parameters -> the object to subscript, and the number of parameters (None: any number).
_GENERIC: Final[Mapping[str, tuple[Any, int | None]]] = {
    "list": (list, 1),
    "set": (set, 1),
    "dict": (dict, 2),
    "tuple": (tuple, None),
    "Optional": (Optional, 1),
    "Union": (Union, None),
}
_GENERIC_ONLY: Final = ("Optional", "Union", "Literal")
_NAMES: Final = (*KNOWN_TYPES, *_GENERIC_ONLY)

# Hashable types: keys of a dict, elements of a set.
_HASHABLE: Final = (str, int, float, bool, type(None), Any, datetime.datetime, datetime.date, datetime.time, Decimal)

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<mark>->|\.\.\.|[][{},:|.()=*/])
      | (?P<name>[^\W\d]\w*)
      | (?P<number>-?[0-9]+(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))
      | (?P<integer>-?[0-9]+)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""",
    re.VERBOSE | re.DOTALL,
)
# Characters that people write in place of "->": "question - answer", "question => answer", "question → answer".
_LIKE_ARROWS: Final = frozenset("-–—→⇒⟶➜<>~")
_ARROW_REMEDY: Final = '; between the inputs and the outputs of a signature stands "->"'
_CHARACTER_REMEDIES: Final = {
    "?": '; a field that may be left out has a type such as "str | None"',
    ";": '; a comma separates fields: "context, question -> answer"',
}
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_CODE_LANGUAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+#.-]{0,31}")


class Token(NamedTuple):
    """A token of a signature's text.

    Attributes:
        kind: ``mark``, ``name``, ``integer``, ``number``, ``string`` or ``end``.
        text: The characters of the token.
        position: The offset of the first character, counted from 0.
    """

    kind: str
    text: str
    position: int


class TokenReader:
    """A reader of a text's tokens, which also raises the errors about them.

    Args:
        text: The text of a whole signature, or of a type in a signature's map.
        where: The path of the text in errors, such as ``signature`` or ``signature.inputs.tags``.
        is_signature: The text is that of a whole signature.

    Attributes:
        lacks_arrow: The text is that of a signature without ``->``; each error says so.

    Raises:
        OperationError: Of kind ``signature``: a character that begins no token.
    """

    def __init__(self, text: str, where: str, *, is_signature: bool = False) -> None:
        self.where = where
        self.lacks_arrow = is_signature and "->" not in text
        self._tokens = list(self._split(text))
        self._index = 0

    @property
    def next(self) -> Token:
        """The next token; at the end of the text a token of kind ``end``."""
        return self._tokens[self._index]

    def take(self) -> Token:
        """Return the next token and advance."""
        token = self.next
        if token.kind != "end":
            self._index += 1
        return token

    def take_mark(self, *marks: str) -> bool:
        """Advance if the next token is one of ``marks``; return whether it was."""
        found = self.next.kind == "mark" and self.next.text in marks
        self._index += found
        return found

    def expected(self, what: str, remedy: str = "") -> NoReturn:
        """Raise an error that expects ``what`` in place of the next token."""
        token = self.next
        got = "the end of the text" if token.kind == "end" else shown(token.text)
        self.fail(f"expected {what}, got {got}", token.position, remedy)

    def fail(self, problem: str, position: int, remedy: str = "", *, limit: int | None = None) -> NoReturn:
        """Raise an error about a problem at a position, counted in characters from 0."""
        if self.lacks_arrow and remedy != _ARROW_REMEDY:
            # Whatever else may be wrong: "question: answer", "question = answer", "question, answer".
            remedy = _ARROW_REMEDY + remedy
        message = f"{problem} at character {position} of {self.where}{remedy}"
        raise OperationError("signature", message, path=self.where, limit=limit)

    def _split(self, text: str) -> list[Token]:
        tokens = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                problem = "unterminated string" if text[position] in "\"'" else "unexpected character"
                self.fail(f"{problem} {shown(text[position])}", position, self._remedy(text, position))
            if match.lastgroup != "space":
                tokens.append(Token(str(match.lastgroup), match.group(), position))
            position = match.end()
        return [*tokens, Token("end", "", len(text))]

    def _remedy(self, text: str, position: int) -> str:
        if text[position] in _LIKE_ARROWS:
            return "" if "->" in text[:position] else _ARROW_REMEDY
        return _CHARACTER_REMEDIES.get(text[position], "")


def parse_type(reader: TokenReader, field_name: str) -> FieldType:
    """Parse one type.

    Args:
        reader: Is at the first token of the type, and afterwards behind the last.
        field_name: The name of the field, for errors.

    Raises:
        OperationError: Of kind ``signature``: the type is unknown or malformed, nests deeper than
            :data:`MAX_TYPE_DEPTH`, or has more than :data:`MAX_TYPE_MEMBERS` members.
    """
    return _TypeParser(reader, field_name).union(1)


class _TypeParser:
    def __init__(self, reader: TokenReader, field_name: str) -> None:
        self._reader = reader
        self._field_name = field_name
        # The field, or the field of an object, whose type is being read.
        self._inner_name = field_name

    def union(self, depth: int) -> FieldType:
        start = self._reader.next.position
        if depth > MAX_TYPE_DEPTH:
            self._fail(f"a type that nests deeper than {MAX_TYPE_DEPTH} levels", start, limit=MAX_TYPE_DEPTH)
        members = [self._single(depth)]
        while self._reader.take_mark("|"):
            members.append(self._single(depth))
            self._check_count(members, start)
        return members[0] if len(members) == 1 else _union_of(members)

    def _single(self, depth: int) -> FieldType:
        start = self._reader.next.position
        if self._reader.take_mark("{"):
            read = self._object(depth)
        elif self._reader.take_mark("("):
            read = self.union(depth + 1)
            if not self._reader.take_mark(")"):
                self._reader.expected('"|" or ")"')
        else:
            read = self._named(depth)
        return self._with_settings(read, start) if self._reader.take_mark("(") else read

    def _named(self, depth: int) -> FieldType:
        start = self._reader.next.position
        name = self._name()
        if not self._reader.take_mark("["):
            if name in _GENERIC_ONLY:
                self._fail(f"{name} without its types in brackets", start)
            return FieldType(name, KNOWN_TYPES[name])
        if name == "Literal":
            return self._literal(start)
        if name == "dspy.Code":
            return self._code()
        if name not in _GENERIC:
            self._fail(f"a type in brackets behind {name}, which takes none,", start)
        members = [self._member(name, depth)]
        while self._reader.take_mark(","):
            members.append(self._member(name, depth))
            self._check_count(members, start)
        self._close()
        form, count = _GENERIC[name]
        if count is not None and len(members) != count:
            self._fail(f"{name} of {len(members)} types instead of {count}", start)
        self._check_ellipsis(members, start)
        if name in ("dict", "set") and not _is_hashable(members[0].annotation):
            self._fail(f"{members[0].text}, which cannot be a key of a dict or an element of a set,", start)
        if name in ("Optional", "Union"):
            return _union_of(members, name)
        return FieldType(f"{name}[{', '.join(member.text for member in members)}]", _annotation(form, members))

    def _object(self, depth: int) -> FieldType:
        start = self._reader.next.position
        fields: dict[str, FieldType] = {}
        while True:
            position = self._reader.next.position
            if self._reader.next.kind != "name":
                self._reader.expected("the name of a field of an object")
            name = self._reader.take().text
            wrong = name_problem(name) or ("is Pydantic's" if name.startswith("model_") else None)
            if wrong or name in fields:
                self._fail(wrong or f'the field "{name}" twice in an object', position)
            fields[name] = self._member_of_object(name, depth)
            self._check_count(list(fields), start)
            if not self._reader.take_mark(","):
                break
        if not self._reader.take_mark("}"):
            self._reader.expected('"," or "}"')
        text = f"{{{', '.join(f'{name}: {read.whole_text}' for name, read in fields.items())}}}"
        return FieldType(text, object_model(self._inner_name, text, fields))

    def _member_of_object(self, name: str, depth: int) -> FieldType:
        if not self._reader.take_mark(":"):
            return FieldType("str", str)
        outer, self._inner_name = self._inner_name, name
        read = self.union(depth + 1)
        self._inner_name = outer
        return read

    def _with_settings(self, read: FieldType, start: int) -> FieldType:
        given: dict[str, Any] = {}
        while True:
            position = self._reader.next.position
            if self._reader.next.kind != "name":
                self._reader.expected("a setting such as ge=0")
            name = self._reader.take().text
            if not self._reader.take_mark("="):
                self._reader.expected(f'"=" behind {name}')
            if name in given:
                self._fail(f"{name} twice", position)
            given[name] = self._default() if name == "default" else self._scalar()
            if not self._reader.take_mark(","):
                break
        if not self._reader.take_mark(")"):
            self._reader.expected('"," or ")"')
        description, default = given.pop("desc", None), given.pop("default", NO_DEFAULT)
        if description is not None and not isinstance(description, str):
            self._fail(f"a description that is no text: {shown(description)}", start)
        if description is None:
            description = read.description
        if default is NO_DEFAULT:
            default = read.default
        if given:
            if read.constraints:
                self._fail(f"{read.text} with constraints twice", start)
            read = self._constrained(read, given, start)
        read = read.replaced(description=description, default=default)
        if default is not NO_DEFAULT and (wrong := default_problem(read)) is not None:
            self._fail(wrong, start)
        return read

    def _constrained(self, read: FieldType, given: Mapping[str, Any], start: int) -> FieldType:
        if read.members:
            return self._constrained_union(read, given, start)
        for name, value in given.items():
            wrong = problem(read.annotation, name, value)
            if wrong is not None:
                self._fail(f"{read.text}, which {wrong},", start)
        constraints = (*read.constraints, *given.items())
        settings = ", ".join(f"{name}={choice_text(value)}" for name, value in given.items())
        head = f"{read.text[:-1]}, " if read.constraints else f"{read.text}("
        if leaves_no_value(read.annotation, constraints):
            self._fail(f"{head}{settings}) with bounds that no value is within", start)
        return read.replaced(text=f"{head}{settings})", constraints=constraints)

    def _constrained_union(self, read: FieldType, given: Mapping[str, Any], start: int) -> FieldType:
        for name in given:
            if not any(name in allowed_in(member) for member in read.members):
                self._fail(f"{read.text}, which {takes_no(name, allowed_in(read))},", start)
        members = []
        for member in read.members:
            own = {name: value for name, value in given.items() if name in allowed_in(member)}
            members.append(self._constrained(member, own, start) if own else member)
        is_named = read.text.startswith(("Optional[", "Union["))
        return _union_of(members, read.text.partition("[")[0] if is_named else None)

    def _default(self) -> Any:
        default = read_default(self._reader, self._scalar)
        return CompoundDefault(json.dumps(default)) if isinstance(default, list | dict) else default

    def _scalar(self) -> float | str | None:
        return float(self._reader.take().text) if self._reader.next.kind == "number" else self._choice()

    def _name(self) -> str:
        if self._reader.next.kind != "name":
            self._reader.expected(f'a type of field "{self._field_name}"')
        start = self._reader.next.position
        name = self._reader.take().text
        while self._reader.take_mark("."):
            if self._reader.next.kind != "name":
                self._reader.expected(f"a name behind {quoted(name)}")
            name += "." + self._reader.take().text
        canonical = name.removeprefix("typing.")
        canonical = _ALIASES.get(canonical, canonical)
        if canonical not in _NAMES:
            self._unknown(name, start)
        return canonical

    def _unknown(self, name: str, position: int) -> NoReturn:
        remedy = f"{hints.of_type(name, [*_NAMES, *_ALIASES])}; known types: {', '.join(_NAMES)}"
        problem = f'unknown type {quoted(name)} of field "{self._field_name}"'
        self._reader.fail(problem, position, remedy)

    def _member(self, name: str, depth: int) -> FieldType:
        if name == "tuple" and self._reader.take_mark("..."):
            return FieldType("...", ...)
        return self.union(depth + 1)

    def _check_ellipsis(self, members: list[FieldType], start: int) -> None:
        if any(member.annotation is ... for member in members) and (
            len(members) != 2 or members[0].annotation is ... or members[1].annotation is not ...
        ):
            self._fail('"..." that does not stand behind exactly one type', start)

    def _literal(self, start: int) -> FieldType:
        choices = [self._choice()]
        while self._reader.take_mark(","):
            choices.append(self._choice())
            self._check_count(choices, start)
        self._close()
        text = f"Literal[{', '.join(map(choice_text, choices))}]"
        form: Any = Literal
        # `None` is a member of a union, where everything that asks whether a type takes `nil` finds it.
        others = tuple(choice for choice in choices if choice is not None)
        annotation: Any = form[others] if others else type(None)
        if others and None in choices:
            annotation = _GENERIC["Optional"][0][annotation]
        return FieldType(text, annotation)

    def _choice(self) -> str | int | None:
        token = self._reader.next
        constants = {"True": True, "False": False, "None": None}
        if token.kind == "string":
            choice: str | int | None = self._string(token)
        elif token.kind == "integer":
            if len(token.text.lstrip("-")) > _MAX_INTEGER_DIGITS:
                self._fail(f"an integer of more than {_MAX_INTEGER_DIGITS} digits", token.position)
            choice = int(token.text)
        elif token.kind == "name" and token.text in constants:
            choice = constants[token.text]
        else:
            self._reader.expected("a string in quotes, an integer, True, False or None")
        self._reader.take()
        return choice

    def _string(self, token: Token) -> str:
        def unescaped(match: re.Match[str]) -> str:
            if match.group(1) not in _ESCAPED:
                self._fail(f"unknown escape {shown(match.group())} in a string", token.position)
            return _ESCAPED[match.group(1)]

        return _ESCAPE.sub(unescaped, token.text[1:-1])

    def _code(self) -> FieldType:
        token = self._reader.next
        if token.kind not in ("string", "name"):
            self._reader.expected('a language such as "python" behind dspy.Code')
        language = self._string(token) if token.kind == "string" else token.text
        if not _CODE_LANGUAGE.fullmatch(language):
            self._fail(f"a language of dspy.Code that is no name: {shown(language)}", token.position)
        self._reader.take()
        self._close()
        return FieldType(f'dspy.Code["{language}"]', _code_in(language))

    def _close(self) -> None:
        if not self._reader.take_mark("]"):
            self._reader.expected('"," or "]"')

    def _check_count(self, members: list[Any], start: int) -> None:
        if len(members) > MAX_TYPE_MEMBERS:
            self._fail(f"a type of more than {MAX_TYPE_MEMBERS} members", start, limit=MAX_TYPE_MEMBERS)

    def _fail(self, problem: str, position: int, *, limit: int | None = None) -> NoReturn:
        self._reader.fail(f'field "{self._field_name}" has {problem}', position, limit=limit)


def allowed_in(read: FieldType) -> tuple[str, ...]:
    """Return the names of the constraints that a type, or a member of a union, takes."""
    if read.members:
        return tuple(name for member in read.members for name in allowed_in(member))
    return allowed(read.annotation)


def _union_of(members: list[FieldType], name: str | None = None) -> FieldType:
    """Return a union, written ``A | B`` or ``name[A, B]``; it has the first description and default of a member."""
    texts = [member.text for member in members]
    text = " | ".join(texts) if name is None else f"{name}[{', '.join(texts)}]"
    description = next((member.description for member in members if member.description is not None), None)
    default = next((member.default for member in members if member.default is not NO_DEFAULT), NO_DEFAULT)
    annotation = _annotation(_GENERIC[name or "Union"][0], members)
    return FieldType(text, annotation, (), description, default, tuple(members))


def _annotation(form: Any, members: list[FieldType]) -> Any:
    arguments = tuple(member.inner for member in members)
    return form[arguments if len(arguments) > 1 else arguments[0]]


def _is_hashable(annotation: Any) -> bool:
    if get_origin(annotation) is Union:
        return all(map(_is_hashable, get_args(annotation)))
    return annotation in _HASHABLE or get_origin(annotation) is Literal


@lru_cache(maxsize=64)
def _code_in(language: str) -> Any:
    # Cached: dspy.Code["python"] makes a new class each time, and equal signatures must have equal annotations.
    return dspy.Code[language]
