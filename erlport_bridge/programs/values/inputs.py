"""Convert the inputs of a call from terms to the types of their fields, exactly; errors have the path of the term.

| type | accepted terms |
| --- | --- |
| ``str`` | a string, an atom, a charlist |
| ``int``, ``float``, ``bool``, ``None`` | the same type only; an integer also for ``float`` |
| ``list``, ``set``, ``tuple``, ``dict`` | the same, element by element; a list also for ``set`` and ``tuple`` |
| ``Literal`` | one of its choices; an atom for a string |
| ``datetime``, ``date``, ``time``, ``Decimal`` | the same, or its text (ISO 8601; decimal digits) |
| ``dspy.Image``, ``dspy.Audio``, ``dspy.File`` | bytes, a base64 data URI, or the map of a result; see :mod:`.media` |
| ``dspy.History`` | a list of messages, or the map of a result |
| ``dspy.Code``, ``dspy.Reasoning`` | text |
| ``dspy.Document``, ``dspy.Citations`` | text or a map; a list of maps; see :mod:`.documents` |
| ``dspy.Tool`` | a name or a description; see :mod:`.tool_values` |
| ``dspy.ToolCalls`` | a list of calls, or the map of a result |
| an object (``{name: str, …}``) | a map with its fields; fields with a default may be left out |
| ``Any`` | text, numbers, dates, and lists, tuples, sets and maps of them |

Nothing is fetched and no file is opened. Text never becomes a content part of another kind in the prompt.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Optional, Union, get_args, get_origin

import dspy
import pydantic

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import (
    NO_DEFAULT,
    Field,
    SignatureSpec,
    constraints,
    default_value,
    is_object,
    takes_nil,
)
from erlport_bridge.programs.text import (
    arguments,
    expected_text,
    inside,
    misspelt,
    neutral,
    quoted,
    suggestion,
    text_of,
)
from erlport_bridge.programs.values import documents, media, tool_values
from erlport_bridge.programs.values.media import TYPE_KEY, entries, mismatch
from erlport_bridge.programs.values.scalars import MAX_INTEGER_BITS, NO, SCALARS, remedy
from erlport_bridge.term import shown

#: Deepest nesting of a value whose type does not limit it. A deeper value would exhaust Python's stack inside DSPy.
MAX_VALUE_DEPTH: Final = 100

# So many keys of a map are named in an error.
_MAX_SHOWN: Final = 20

# The codec keeps this key of a struct that Python cannot hold, such as a date of another calendar.
_STRUCT: Final = "__struct__"
_OPTIONAL_TEXT: Final = Optional[str]  # noqa: UP045  # as in field types; str | None has another class


def input_values(spec: SignatureSpec, inputs: object, *, path: str = "inputs") -> dict[str, Any]:
    """Check the inputs of a call against its signature, before any request to a language model.

    Args:
        spec: The signature.
        inputs: A map from the names of all input fields, as atoms or strings, to terms. Fields that may be ``nil`` or
            have a default may be left out.
        path: The path of the map, for errors.

    Returns:
        The value of every input field, for DSPy; the table in :mod:`.inputs` lists types and terms.

    Raises:
        OperationError: Of kind ``input``: ``inputs`` is not a map, a field is missing or unknown, or a value does not
            fit the type of its field.
    """
    if not isinstance(inputs, arguments.MAPPINGS):
        form = f" such as %{{{spec.inputs[0].name}: …}}" if spec.inputs else ""
        raise OperationError("input", f"expected a map{form} at {path}, got {shown(inputs)}", path=path)
    if _STRUCT in inputs:
        raise OperationError("input", f"expected a map of inputs at {path}, got the struct {shown(inputs)}", path=path)
    given = {_field_name(key, path): value for key, value in inputs.items()}
    if given.keys() != spec.input_names:
        _check_names(spec, given, path)
    values = {}
    for field in spec.inputs:
        where = f"{path}.{field.name}"
        default = None if field.default is NO_DEFAULT else default_value(field.default)
        values[field.name] = convert(field.annotation, given.get(field.name, default), where)
        constraints.check(field.annotation, field.constraints, values[field.name], where, "input")
    return values


def require_inputs(spec: SignatureSpec, given: Collection[str], path: str) -> None:
    """Check that a map has every input, whatever other keys it has, as the examples of a metric do.

    Raises:
        OperationError: Of kind ``input``: an input is missing. The message names the keys that are there, and the one
            that may be the misspelt input.
    """
    missing = _missing(spec, given)
    if missing:
        others = [name for name in given if name not in spec.input_names]
        present = [field.name for field in spec.inputs if field.name in given]
        raise _missing_fields(missing, present, others, path)


def require_compared(names: Collection[str], given: Collection[str], path: str) -> None:
    """Check that an example has the fields that a metric compares.

    Raises:
        OperationError: As :func:`require_inputs`.
    """
    missing = [name for name in names if name not in given]
    if missing:
        raise _missing_fields(missing, [], list(given), path, ", which the metric compares")


def _missing_fields(
    missing: list[str], present: list[str], others: list[str], path: str, reason: str = ""
) -> OperationError:
    """Return the error of a map without some fields, which are not among its ``others``."""
    found = [*present, *others]
    found_text = ", ".join(
        name if name.isidentifier() and len(name) < 64 else quoted(name) for name in found[:_MAX_SHOWN]
    )
    message = f"missing at {path}: {', '.join(missing)}{reason}; given: {found_text or 'nothing'}"
    if len(found) > _MAX_SHOWN:
        message += f" and {len(found) - _MAX_SHOWN} more"
    for name in others[:_MAX_SHOWN]:
        if (meant := misspelt(name, missing)) is not None:
            message += f' (did you mean "{meant}" by {quoted(name)}?)'
            break
    return OperationError("input", message, path=f"{path}.{missing[0]}")


def convert(annotation: Any, value: object, path: str, *, lenient: bool = True) -> Any:
    """Convert a term to a value of a field's type.

    Args:
        annotation: The type, as :func:`erlport_bridge.programs.signatures.type_parser.parse_type` returns it.
        value: A term.
        path: The path of the term, such as ``inputs.tags[2]``.
        lenient: Whether a charlist counts as text, and text as a date. A union tries exact matches first.

    Raises:
        OperationError: Of kind ``input``, with the path of the innermost term that does not fit.
    """
    if annotation is Any:
        return _plain_input(value, path)
    if annotation in SCALARS:
        description, read = SCALARS[annotation]
        found = read(value, lenient)
        if found is NO:
            raise _scalar_mismatch(annotation, description, value, path)
        return found
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        inner = convert(annotation.__origin__, value, path, lenient=lenient)
        return constraints.validated(_adapter(annotation).validate_python, inner, path, "input")
    if origin is Union:
        return _union(annotation, value, path, lenient)
    if origin is Literal:
        return _literal(annotation, value, path, lenient)
    if origin in _CONTAINERS:
        return _CONTAINERS[origin](get_args(annotation), value, path, lenient)
    if is_object(annotation):
        return _object(annotation, value, path, lenient)
    return _dspy_value(annotation, value, path)


def describe(annotation: Any) -> str:
    """Return what a type accepts, for errors: ``a string``, ``a list or nil``, ``one of "a", "b"``."""
    if annotation in SCALARS:
        return SCALARS[annotation][0]
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        return describe(annotation.__origin__)
    if is_object(annotation):
        return f"a map with {', '.join(annotation.model_fields)}"
    if origin is Union:
        return " or ".join(describe(member) for member in get_args(annotation))
    if origin is Literal:
        return f"one of {', '.join(map(shown, get_args(annotation)))}"
    return _CONTAINER_NAMES.get(origin) or f"a value for dspy.{_dspy_class(annotation).__name__}"


def _scalar_mismatch(annotation: Any, description: str, value: object, path: str) -> OperationError:
    if annotation is int and type(value) is int:
        return mismatch(f"an integer of at most {MAX_INTEGER_BITS} bits", value, path)
    if annotation is not str:
        if annotation is float and type(value) is int:
            description = "a number that a float can hold"
        return mismatch(description, value, path, remedy(annotation, value))
    of_list = "; a field that takes a list has the type list[str] in its signature" if isinstance(value, list) else ""
    return OperationError("input", expected_text(path, value) + of_list, path=path)


def _union(annotation: Any, value: object, path: str, lenient: bool) -> Any:
    members = get_args(annotation)
    if value is None and type(None) in members:
        return None
    others = [member for member in members if member is not type(None)]
    if len(others) == 1:
        return convert(others[0], value, path, lenient=lenient)
    for leniency in (False, True) if lenient else (False,):
        for member in others:
            try:
                return convert(member, value, path, lenient=leniency)
            except OperationError:
                continue
    raise mismatch(describe(annotation), value, path, "".join(remedy(member, value) for member in others))


def _literal(annotation: Any, value: object, path: str, lenient: bool) -> Any:
    wanted = text_of(value) if lenient or isinstance(value, str) else None
    for choice in get_args(annotation):
        # Types are compared too, since True == 1.
        if (isinstance(choice, str) and choice == wanted) or (type(choice) is type(value) and choice == value):
            return neutral(choice) if isinstance(choice, str) else choice
    raise mismatch(describe(annotation), value, path)


def _list(types: tuple[Any, ...], value: object, path: str, lenient: bool) -> list[Any]:
    if not isinstance(value, list):
        # A MapSet, or a range.
        of_set = "; Enum.to_list/1 makes a list of it" if isinstance(value, set | range) else ""
        raise mismatch("a list", value, path, of_set)
    (element_type,) = types or (Any,)
    return [convert(element_type, item, f"{path}[{index}]", lenient=lenient) for index, item in enumerate(value)]


def _set(types: tuple[Any, ...], value: object, path: str, lenient: bool) -> set[Any]:
    if not isinstance(value, set | frozenset) and not (lenient and isinstance(value, list)):
        raise mismatch("a set", value, path)
    (element_type,) = types or (Any,)
    elements = [convert(element_type, item, f"{path}[{index}]", lenient=lenient) for index, item in enumerate(value)]
    return _set_of(elements, value, path)


def _set_of(elements: list[Any], value: object, path: str) -> set[Any]:
    try:
        return set(elements)
    except TypeError:  # in Elixir a map may be an element
        raise mismatch("a set of elements that are no lists and no maps", value, path) from None


def _tuple(types: tuple[Any, ...], value: object, path: str, lenient: bool) -> tuple[Any, ...]:
    if not isinstance(value, tuple) and not (lenient and isinstance(value, list)):
        raise mismatch("a tuple", value, path)
    if not types:
        types = (Any, ...)
    if types[-1] is ...:
        types = types[:1] * len(value)
    elif len(types) != len(value):
        raise mismatch(f"a tuple of {len(types)} elements", value, path)
    pairs = zip(types, value, strict=True)
    return tuple(convert(each, item, f"{path}[{index}]", lenient=lenient) for index, (each, item) in enumerate(pairs))


def _dict(types: tuple[Any, ...], value: object, path: str, lenient: bool) -> dict[Any, Any]:
    if not isinstance(value, dict) or _STRUCT in value:
        raise mismatch("a map", value, path)
    key_type, value_type = types or (Any, Any)
    pairs = [
        (
            convert(key_type, key, f"a key of {path}", lenient=lenient),
            convert(value_type, item, inside(path, key), lenient=lenient),
        )
        for key, item in value.items()
    ]
    return _map_of(pairs, value, path)


def _object(annotation: Any, value: object, path: str, lenient: bool) -> Any:
    if not isinstance(value, dict) or _STRUCT in value:
        raise mismatch(f"a map with {', '.join(annotation.model_fields)}", value, path)
    given = {}
    for key, item in value.items():
        name = text_of(key)
        if name not in annotation.model_fields:
            hint = suggestion(key, annotation.model_fields) if isinstance(key, str) else ""
            raise mismatch(f"one of {', '.join(annotation.model_fields)} as a key", key, path, hint)
        field = annotation.model_fields[name]
        given[name] = convert(field.annotation, item, f"{path}.{name}", lenient=lenient)
    for name, field in annotation.model_fields.items():
        if name not in given and field.is_required():
            raise mismatch(f"a map with {', '.join(annotation.model_fields)}", value, path, f"; {name} is missing")
    # The types are right after conversion; this checks the constraints.
    return constraints.validated(annotation.model_validate, given, path, "input")


def _map_of(pairs: list[tuple[Any, Any]], value: object, path: str) -> dict[Any, Any]:
    try:
        found = dict(pairs)
    except TypeError:  # in Elixir a map may be a key
        raise mismatch("a map whose keys are no maps", value, path) from None
    if not all(isinstance(key, str) for key in found) and len(set(map(_text_of_key, found))) < len(pairs):
        raise mismatch("a map whose keys differ as text, as prompts have them", value, path)
    return found


def _text_of_key(key: Any) -> str:
    """Return a key of a map as DSPy writes it into a prompt."""
    if isinstance(key, tuple):
        return ",".join(map(_text_of_key, key))
    return str(key).lower() if isinstance(key, bool) else str(key)


_CONTAINERS: Final[Mapping[Any, Callable[[tuple[Any, ...], object, str, bool], Any]]] = {
    list: _list,
    set: _set,
    tuple: _tuple,
    dict: _dict,
}
_CONTAINER_NAMES: Final = {list: "a list", set: "a set", tuple: "a tuple", dict: "a map", Any: "any value"}


def _plain_input(value: object, path: str, *, revive: bool = False, depth: int = 1) -> Any:
    """Check a term of type ``Any``; with ``revive``, maps tagged with ``"$type"`` become values of that DSPy type."""
    if depth > MAX_VALUE_DEPTH:
        raise OperationError(
            "input", f"a value nested deeper than {MAX_VALUE_DEPTH} levels at {path}", path=path, limit=MAX_VALUE_DEPTH
        )

    def convert_inner(item: object, place: str) -> Any:
        return _plain_input(item, place, revive=revive, depth=depth + 1)

    if isinstance(value, str | bytes):
        return convert(str, value, path)
    if type(value) is int:
        return convert(int, value, path)
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        tag = value.get(TYPE_KEY)
        if revive and isinstance(tag, str) and tag in _READERS:
            return _READERS[tag](value, path)
        pairs = [
            (convert_inner(key, f"a key of {path}"), convert_inner(item, inside(path, key)))
            for key, item in value.items()
        ]
        return _map_of(pairs, value, path)
    if isinstance(value, list | tuple | set | frozenset):
        items = [convert_inner(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, list):
            return items
        return tuple(items) if isinstance(value, tuple) else _set_of(items, value, path)
    raise mismatch("text, numbers, dates, lists, tuples, sets or maps", value, path)


_PLAIN: Final = (int, float, datetime.date, datetime.time, Decimal, range)


def _dspy_value(annotation: Any, value: object, path: str) -> Any:
    cls = _dspy_class(annotation)
    if cls is dspy.Code:  # or a subclass with a language
        # Bypass DSPy's constructor: it keeps what it takes for a Markdown code block, and drops the rest.
        return annotation.model_construct(code=convert(str, value, path))
    return _READERS[cls.__name__](value, path)


def _dspy_class(annotation: Any) -> Any:
    return dspy.Code if issubclass(annotation, dspy.Code) else annotation


def _history(value: object, path: str) -> Any:
    if isinstance(value, dict):
        value, path = entries(value, "History", ("messages",), path).get("messages"), f"{path}.messages"
    if not isinstance(value, list):
        raise mismatch("a list of messages", value, path)
    return dspy.History(messages=[_message(message, f"{path}[{index}]") for index, message in enumerate(value)])


def _message(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise mismatch("a message (a map from the names of fields)", value, path)
    return {
        convert(str, key, f"a key of {path}", lenient=False): _plain_input(item, inside(path, key), revive=True)
        for key, item in value.items()
    }


def _tool_calls(value: object, path: str) -> Any:
    results = None
    if isinstance(value, dict):
        given = entries(value, "ToolCalls", ("tool_calls", "tool_call_results"), path)
        results = _plain_input(given.get("tool_call_results"), f"{path}.tool_call_results")
        value, path = given.get("tool_calls"), f"{path}.tool_calls"
    if not isinstance(value, list):
        raise mismatch("a list of tool calls", value, path)
    calls = [_tool_call(call, f"{path}[{index}]") for index, call in enumerate(value)]
    return dspy.ToolCalls(tool_calls=calls, tool_call_results=results)


def _tool_call(value: object, path: str) -> Any:
    if not isinstance(value, dict):
        raise mismatch("a tool call (a map with name and args)", value, path)
    given = entries(value, "ToolCall", ("id", "name", "args"), path)
    call_id = convert(_OPTIONAL_TEXT, given.get("id"), f"{path}.id")
    name = convert(str, given.get("name"), f"{path}.name")
    args = convert(dict[str, Any], given.get("args", {}), f"{path}.args")
    return dspy.ToolCalls.ToolCall(id=call_id, name=name, args=args)


_READERS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "Image": media.image,
    "Audio": media.audio,
    "File": media.file,
    "History": _history,
    "Document": documents.document,
    "Citations": documents.citations,
    "Tool": tool_values.tool,
    "ToolCalls": _tool_calls,
    "Reasoning": lambda value, path: dspy.Reasoning(content=convert(str, value, path)),
}


@lru_cache(maxsize=512)
def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _field_name(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise OperationError("input", f"expected an atom or a string as a key of {path}, got {shown(key)}", path=path)
    return str(key)


def _check_names(spec: SignatureSpec, given: Collection[str], path: str) -> None:
    names = [field.name for field in spec.inputs]
    missing = _missing(spec, given)
    missing_text = f"missing at {path}: {', '.join(missing)}" if missing else ""
    for name in given:
        if name not in names:
            remedy = suggestion(name, names) or f"; the signature takes {', '.join(names)}"
            problem = f"unknown input {quoted(name)} at {path}{remedy}"
            message = f"{problem}; {missing_text}" if missing else problem
            raise OperationError("input", message, path=f"{path}.{quoted(name)[1:-1]}")
    require_inputs(spec, given, path)


def _missing(spec: SignatureSpec, given: Collection[str]) -> list[str]:
    return [field.name for field in spec.inputs if field.name not in given and not _may_be_left_out(field)]


def _may_be_left_out(field: Field) -> bool:
    return field.default is not NO_DEFAULT or takes_nil(field.annotation)
