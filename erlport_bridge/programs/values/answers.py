"""Read the values that a model wrote as the types of their fields: nothing is changed without a word.

DSPy reads answers by a lax validation, in which ``1999`` is a date of 1970, ``true`` the number 1 and ``null`` the text
``None``. Here a value is converted only where nothing is lost:

| type | what is read |
| --- | --- |
| ``str`` | text; a number in JSON, with its digits |
| ``int`` | an integer; ``7.0``; the text of one |
| ``float``, ``Decimal`` | a number; the text of one |
| ``bool`` | ``true``, ``false``; the words ``true``, ``false``, ``yes``, ``no``, ``on``, ``off`` |
| ``None`` | ``null``, ``None`` |
| ``date``, ``time``, ``datetime`` | the text in the form of ISO 8601, never a number |
| ``Literal`` | one of its choices, also in quotes, or as text |
| ``list``, ``set``, ``tuple``, ``dict``, objects | the same in JSON; as text: JSON, also in a code block or in prose |
| unions | the member that needs the least conversion; text stays text if a member takes it |
| ``Any`` | text, or the value of a text that is JSON as a whole |
| DSPy's types, an application's own | as DSPy reads them |

A value without a term in Elixir is refused too: a time with a zone, half a surrogate pair, a value of type ``Any``
with more than 80 levels.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import dspy
import pydantic
from dspy.adapters.utils import parse_value

from erlport_bridge.programs.signatures import constraints, is_object
from erlport_bridge.programs.text import inside
from erlport_bridge.programs.values import answer_json
from erlport_bridge.programs.values.answer_json import NO
from erlport_bridge.programs.values.answer_scalars import (
    CLOSE,
    EXACT,
    LAX,
    SCALARS,
    UnreadableError,
    checked_text,
    plain_values,
)
from erlport_bridge.programs.values.inputs import MAX_VALUE_DEPTH, describe
from erlport_bridge.term import shown

__all__ = ["UnreadableError", "read_json", "read_text"]

#: ``(value, level, is_text) -> value``. With ``is_text``, strings are the text that the model wrote, and may be JSON;
#: otherwise strings are strings of JSON.
_Reader: TypeAlias = Callable[[Any, int, bool], Any]


def read_text(value: Any, annotation: Any) -> Any:
    """Return the value of a type from the text of its field, as in DSPy's chat and XML adapters.

    Args:
        value: The text; of nested XML, lists and maps of texts.
        annotation: The type.

    Raises:
        UnreadableError: The text does not fit the type.
    """
    return _reader_of(annotation)(value, LAX, True)


def read_json(value: Any, annotation: Any) -> Any:
    """Return the value of a type from a value of JSON.

    Raises:
        UnreadableError: The value does not fit the type.
    """
    return _reader_of(annotation)(value, LAX, False)


def _reader_of(annotation: Any) -> _Reader:
    try:
        # The text is part of the key: `int | str` and `str | int` are equal.
        return _READERS.get(annotation) or _kept_reader(
            annotation, "" if annotation.__class__ is type else repr(annotation)
        )
    except TypeError:  # the type cannot be hashed
        return _made_reader(annotation)


def _made_reader(annotation: Any) -> _Reader:
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        return _constrained(annotation)
    if origin is Union or origin is types.UnionType:
        return _union(annotation)
    if origin is Literal:
        return _literal(annotation)
    if origin in _CONTAINERS:
        return _from_text(_CONTAINERS[origin](annotation), annotation)
    if is_object(annotation):
        return _from_text(_object(annotation), annotation)
    return _foreign(annotation)


_kept_reader = functools.lru_cache(maxsize=1_024)(lambda annotation, _text: _made_reader(annotation))


# --- Text that holds JSON


def _from_text(read: _Reader, annotation: Any) -> _Reader:
    """Return a reader that also takes text, from a reader of JSON values."""
    is_container = (get_origin(annotation) or annotation) in _CONTAINERS or is_object(annotation)

    def read_any(value: Any, level: int, is_text: bool) -> Any:
        if not isinstance(value, str) or (not is_text and level != LAX):
            return read(value, level, is_text)
        error = None
        whole = answer_json.exact(value)
        if whole is not NO:
            try:
                return read(whole, level, False)
            except UnreadableError as raised:
                error = raised
        if level == LAX and is_container and is_text and not isinstance(whole, list | dict | tuple | set):
            for found in answer_json.containers(value):
                try:
                    return read(found, level, False)
                except UnreadableError as raised:
                    error = error or raised
        if is_container:
            expected = f"expected {_expected(annotation)}"
            raise error or UnreadableError(expected, value, remark=answer_json.remark(value))
        return read(_bare(value), level, False)

    return read_any


def _bare(text: str) -> str:
    """Return a text without spaces, quotes and the marks of Markdown around it."""
    text = text.strip()
    block = answer_json.whole_block(text)
    if block is not None:
        text = block
    for mark in ("**", "`", '"', "'"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            return text[len(mark) : -len(mark)].strip()
    return text


# --- Types of several values


_CONSTANTS_IN_JSON: Final = {"None": "null", "True": "true", "False": "false"}


def _literal(annotation: Any) -> _Reader:
    choices = get_args(annotation)
    by_text: dict[str, Any] = {}
    for choice in choices:
        if isinstance(choice, str):  # which comes before a constant that is written alike
            by_text[choice] = choice
        else:
            for text in (str(choice), _CONSTANTS_IN_JSON.get(str(choice), str(choice))):
                by_text.setdefault(text, choice)

    def read(value: Any, level: int, is_text: bool) -> Any:
        if not (is_text and isinstance(value, str)):
            for choice in choices:
                if type(choice) is type(value) and choice == value:
                    return choice
        if isinstance(value, str):
            for text in (value, value.strip(), _bare(value), _without_type(_bare(value))):
                found = by_text.get(text, NO)
                if found is not NO and (level == LAX or is_text or isinstance(found, str)):
                    return found
        elif level == LAX:
            for choice in choices:
                if isinstance(value, float) and type(choice) is int and choice == value:
                    return choice
                if isinstance(choice, str) and choice == _written(value):
                    return choice
        raise UnreadableError(f"expected {_expected(annotation)}", value)

    return read


def _without_type(text: str) -> str:
    """Return the choice of a text such as ``Literal['a']``, which models write."""
    if text.startswith(("Literal[", "str[")) and text.endswith("]"):
        return _bare(text[text.index("[") + 1 : -1])
    return text


def _written(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else None


def _constrained(annotation: Any) -> _Reader:
    read = _reader_of(annotation.__origin__)
    validate = pydantic.TypeAdapter(annotation).validate_python

    def read_constrained(value: Any, level: int, is_text: bool) -> Any:
        return _validated(validate, read(value, level, is_text))

    return read_constrained


def _validated(validate: Callable[[Any], Any], value: Any) -> Any:
    try:
        return validate(value)
    except pydantic.ValidationError as error:
        problem, place, got = constraints.first_problem(error)
        raise UnreadableError(problem, got, path=place) from None


def _union(annotation: Any) -> _Reader:
    members = get_args(annotation)
    others = [member for member in members if member is not type(None)]
    takes_nil = len(others) < len(members)
    texts = [_reader_of(member) for member in others if _takes_text(member)]
    readers = [_reader_of(member) for member in others]
    choices = [_reader_of(member) for member in others if get_origin(member) is Literal and _takes_text(member)]
    not_texts = [_reader_of(member) for member in others if not _takes_text(member)]
    if Any in others:
        return _any

    def read(value: Any, level: int, is_text: bool) -> Any:
        if value is None and takes_nil:
            return None
        if is_text and isinstance(value, str):
            return read_written(value, level)
        if len(readers) == 1:
            try:
                return readers[0](value, level, is_text)
            except UnreadableError:
                if takes_nil and isinstance(value, str) and not texts and level == LAX and value in ("null", "None"):
                    return None
                raise
        found = _first(readers, value, level, is_text)
        if found is NO:
            raise UnreadableError(f"expected {_expected(annotation)}", value)
        return found

    def read_written(value: str, level: int) -> Any:
        found = _first(choices, value, EXACT, True)
        if found is not NO:
            return found
        whole = answer_json.exact(value)
        if whole is None and takes_nil:
            return None
        if not isinstance(whole, str) and whole is not NO:
            found = _first(not_texts, whole, CLOSE, False)
            if found is not NO:
                return found
        if texts:
            decoded = [whole] if isinstance(whole, str) and not_texts else []
            for text in (value, *decoded)[:: -1 if decoded else 1]:
                found = _first(texts, text, EXACT, True)
                if found is not NO:
                    return found
        if len(not_texts) == 1 and not texts:
            if takes_nil and not value.strip():
                return None
            return not_texts[0](value, level, True)
        found = _first(not_texts, value, level, True)
        if found is NO:
            if takes_nil and not value.strip():
                return None
            if len(readers) == 1:
                return readers[0](value, level, True)
            raise UnreadableError(f"expected {_expected(annotation)}", value)
        return found

    return read


def _takes_text(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_text(annotation.__origin__)
    if origin is Literal:
        return any(isinstance(choice, str) for choice in get_args(annotation))
    if origin is Union or origin is types.UnionType:
        return any(map(_takes_text, get_args(annotation)))
    return annotation is str


def _first(readers: list[_Reader], value: Any, level: int, is_text: bool) -> Any:
    for allowed in range(level + 1):
        for read in readers:
            try:
                return read(value, allowed, is_text)
            except UnreadableError:
                continue
    return NO


def _any(value: Any, _level: int, is_text: bool) -> Any:
    if is_text and isinstance(value, str):
        whole = answer_json.exact(value)
        # `("note")` and `{"note"}` are Python too, but more likely text.
        return checked_text(value) if whole is NO or isinstance(whole, tuple | set) else _plain(whole)
    return _plain(value)


# The type around a value of any type has at most 20 levels.
_MAX_LEVELS: Final = MAX_VALUE_DEPTH - 20


def _plain(value: Any, depth: int = 1) -> Any:
    """Return a JSON value without written floats; refuse what has no term."""
    if isinstance(value, str):
        return checked_text(value)
    if isinstance(value, float):
        return SCALARS[float](value, EXACT)
    if depth > _MAX_LEVELS:
        raise UnreadableError(f"expected a value of at most {_MAX_LEVELS} levels", "a value that nests deeper")
    if isinstance(value, dict):
        return {_plain(key): _below(inside("", key), _plain, item, depth + 1) for key, item in value.items()}
    if isinstance(value, set):
        return _set_of([_plain(item, depth + 1) for item in value], value)
    if type(value) in (list, tuple):
        return type(value)(_below(f"[{index}]", _plain, item, depth + 1) for index, item in enumerate(value))
    if value is None or isinstance(value, int):
        return value
    raise UnreadableError("expected text, numbers, lists or maps", value)


def _below(place: str, read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except UnreadableError as error:
        error.path = place + error.path
        raise


def _list(annotation: Any) -> _Reader:
    read_item = _reader_of((get_args(annotation) or (Any,))[0])

    def read(value: Any, level: int, is_text: bool) -> Any:
        if not isinstance(value, list) and not (level == LAX and isinstance(value, tuple)):
            raise UnreadableError("expected a list", value)
        return _items(read_item, value, level, is_text)

    return read


def _items(read_item: _Reader, items: Any, level: int, is_text: bool) -> list[Any]:
    found = []
    for item in items:
        try:
            found.append(read_item(item, level, is_text))
        except UnreadableError as error:
            error.path = f"[{len(found)}]{error.path}"
            raise
    return found


def _set(annotation: Any) -> _Reader:
    read_item = _reader_of((get_args(annotation) or (Any,))[0])

    def read(value: Any, level: int, is_text: bool) -> Any:
        if not isinstance(value, list | set | tuple):
            raise UnreadableError("expected a set", value)
        return _set_of(_items(read_item, value, level, is_text), value)

    return read


def _set_of(items: list[Any], value: Any) -> set[Any]:
    try:
        found = set(items)
        # To Python 1, 1.0 and True are one element, to Elixir three.
        if len(found) != len({(type(item), item) for item in items}):
            raise UnreadableError("expected a set of elements that Python tells apart", value)
    except TypeError:
        raise UnreadableError("expected a set of elements that are no lists and no maps", value) from None
    return found


def _tuple(annotation: Any) -> _Reader:
    members = get_args(annotation) or (Any, ...)
    if members == ((),):
        members = ()
    readers = [_reader_of(member) for member in members if member is not ...]

    def read(value: Any, level: int, is_text: bool) -> Any:
        if not isinstance(value, list | tuple):
            raise UnreadableError("expected a tuple", value)
        if members[-1:] == (...,):
            return tuple(_items(readers[0], value, level, is_text))
        if len(value) != len(readers):
            raise UnreadableError(f"expected a tuple of {len(readers)} elements", value)
        return tuple(
            _below(f"[{index}]", each, item, level, is_text)
            for index, (each, item) in enumerate(zip(readers, value, strict=True))
        )

    return read


def _dict(annotation: Any) -> _Reader:
    key_type, value_type = get_args(annotation) or (Any, Any)
    read_key, read_item = _reader_of(key_type), _reader_of(value_type)

    def read(value: Any, level: int, is_text: bool) -> Any:
        if not isinstance(value, dict):
            raise UnreadableError("expected a map", value)
        found = {}
        for key, item in value.items():
            known = _below(inside("", key), _key, read_key, key)
            if known in found:
                raise UnreadableError(f"expected the key {shown(known)} once", value)
            found[known] = _below(inside("", key), read_item, item, level, is_text)
        return found

    return read


def _key(read: _Reader, key: Any) -> Any:
    try:
        return read(key, EXACT, False)
    except UnreadableError:
        # In JSON every key is text.
        return read(key, LAX, isinstance(key, str))


def _object(annotation: Any) -> _Reader:
    fields = annotation.model_fields
    readers = {name: _reader_of(field.annotation) for name, field in fields.items()}

    def read(value: Any, level: int, is_text: bool) -> Any:
        if isinstance(value, annotation):
            return value
        if not isinstance(value, dict) or (level < LAX and not value.keys() <= fields.keys()):
            raise UnreadableError(f"expected {_expected(annotation)}", value)
        given = {}
        for name, field in fields.items():
            if name in value:
                try:
                    given[name] = readers[name](value[name], level, is_text)
                except UnreadableError as error:
                    error.path = f".{name}{error.path}"
                    raise
            elif field.is_required():
                raise UnreadableError(f"expected {_expected(annotation)}", value, remark=f"; {name} is missing")
        # The types are right; this checks the constraints.
        return _validated(annotation.model_validate, given)

    return read


def _foreign(annotation: Any) -> _Reader:
    """Return a reader for a type of DSPy or of an application, which DSPy reads."""
    is_written = isinstance(annotation, type) and issubclass(annotation, dspy.Code | dspy.Reasoning)

    def read(value: Any, _level: int, is_text: bool) -> Any:
        check_texts(value)
        try:
            if is_written and is_text and isinstance(value, str):
                found = answer_json.exact(value)
                return pydantic.TypeAdapter(annotation).validate_python(found if isinstance(found, dict) else value)
            return plain_values(parse_value(value, annotation))
        except UnreadableError:
            raise
        except ValueError as error:
            raise UnreadableError(f"expected {_expected(annotation)}", value, remark=f": {_reason(error)}") from error

    return read


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a model meant in a text.

    Raises:
        UnreadableError: It is another value, or none.
    """
    found = answer_json.exact(text)
    if found is answer_json.NO:
        found = next(answer_json.containers(text), answer_json.NO)
    if not isinstance(found, dict):
        got = text if found is answer_json.NO else found
        raise UnreadableError("expected a JSON object", got, remark=answer_json.remark(text))
    return found


def check_texts(value: Any) -> None:
    """Refuse half a surrogate pair in any text of a value of JSON.

    Raises:
        UnreadableError: A text has one; the error has its path.
    """
    if isinstance(value, str):
        checked_text(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_texts(key)
            _below(inside("", key), check_texts, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _below(f"[{index}]", check_texts, item)


def _reason(error: ValueError) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else str(first["msg"])
    return str(error)


def _expected(annotation: Any) -> str:
    try:
        return describe(annotation)
    except (AttributeError, TypeError):
        return f"a value of type {getattr(annotation, '__name__', annotation)}"


_CONTAINERS: Final[Mapping[Any, Callable[[Any], _Reader]]] = {list: _list, set: _set, tuple: _tuple, dict: _dict}


def _read_text_of(value: Any, level: int, _is_text: bool) -> Any:
    return SCALARS[str](value, level)


def _read_scalar(annotation: Any) -> _Reader:
    read = SCALARS[annotation]
    return _from_text(lambda value, level, _is_text: read(value, level), annotation)


_READERS: Final[Mapping[Any, _Reader]] = {
    **{annotation: _read_scalar(annotation) for annotation in SCALARS},
    str: _read_text_of,
    Any: _any,
}
