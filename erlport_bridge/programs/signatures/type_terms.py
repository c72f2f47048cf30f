"""Translate types that Elixir writes as terms into the text of a type.

    :string    {:float, ge: 0, le: 1}    {:list, :string}    {:enum, ["a", "b"]}    %{name: :string, age: :integer}

:mod:`.type_parser` parses the text, so there is one grammar with one set of limits. A list may take the place of a
tuple, for callers whose types come from JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import hints
from erlport_bridge.programs.signatures.constraints import NAMES
from erlport_bridge.programs.signatures.field_type import string_text
from erlport_bridge.programs.signatures.type_parser import MAX_TYPE_DEPTH, MAX_TYPE_MEMBERS
from erlport_bridge.programs.text import expected_text, text_of
from erlport_bridge.term import Atom, shown, sorted_items, sorted_keys

#: The settings of a type, in a field, in a member of a map, or in ``{type, options}``.
SETTINGS: Final = (*NAMES, "minimum", "maximum", "desc", "description", "default", "optional", "enum")
# JSON schema's names of settings -> ours.
_CALLED: Final = {"minimum": "ge", "maximum": "le", "description": "desc"}


def type_text(term: object, where: str, depth: int = 1) -> str:
    """Return the text of a type.

    Args:
        term: Text (an atom, a string, a charlist), a tuple or a map.
        where: The path of the field, for errors.
        depth: The nesting depth of the type, counted from 1.

    Raises:
        OperationError: Of kind ``signature``: the term has no form of a type. The parser of the text checks names.
    """
    if depth > MAX_TYPE_DEPTH:
        raise _error(
            f"expected a type that nests at most {MAX_TYPE_DEPTH} levels at {where}", where, limit=MAX_TYPE_DEPTH
        )
    text = text_of(term)
    if text is not None:
        return text
    if isinstance(term, bytes):
        raise _error(expected_text(where, term), where)
    if isinstance(term, Mapping):
        return _object(term, where, depth)
    if isinstance(term, tuple | list) and len(term) > 1:
        return _form(term, where, depth)
    raise _error(
        f"expected a type such as :string, {{:list, :string}}, {{:float, ge: 0}} or %{{name: :string}} at {where}, "
        f"got {shown(term)}",
        where,
    )


def _form(term: tuple[Any, ...] | list[Any], where: str, depth: int) -> str:
    """Return the text of a form such as ``{:list, type}``, of ``{type, options}``, or of ``{type, description}``."""
    head, *parts = term
    name = text_of(head)
    write = None if name is None else _FORMS.get(name)
    takes_keyword = name == "object" and len(parts) == 1
    settings = (
        parts.pop() if not takes_keyword and _is_settings(parts[-1]) and (write is None or len(parts) > 1) else None
    )
    if write is not None and parts:
        text = write(parts, where, depth)
    else:
        if settings is None and len(parts) == 1 and (description := text_of(parts[0])) is not None:
            settings, parts = {"desc": description}, []
        if parts or settings is None:
            raise _error(f"expected a type with options such as ge: 0 at {where}, got {shown(term)}", where)
        text = type_text(head, where, depth + 1)
    return text if settings is None else with_settings(text, settings, where)


def with_settings(text: str, settings: Any, where: str) -> str:
    """Return the text of a type with constraints, a description and a default: ``int(ge=0, desc="…")``."""
    pairs = sorted_items(settings) if isinstance(settings, Mapping) else settings
    given = {text_of(key) or shown(key): value for key, value in pairs}
    for name in given:
        if name not in SETTINGS:
            hint = hints.of_setting(name, SETTINGS)
            raise _error(f"unknown option {name} at {where}{hint}; known are {', '.join(SETTINGS)}", where)
    if "enum" in given:
        text = _enum([given.pop("enum")], where, 1)
    optional = given.pop("optional", False)
    if not isinstance(optional, bool):
        raise _error(f"expected true or false at {where}.optional, got {shown(optional)}", where)
    for name in ("desc", "description"):
        if name in given and text_of(given[name]) is None:
            raise _error(expected_text(f"{where}.{name}", given[name]), f"{where}.{name}")
    is_list = any(form in text for form in ("list", "set", "tuple"))
    texts = [
        f"default={_default(value, f'{where}.{name}', is_list=is_list)}"
        if name == "default"
        else f"{_CALLED.get(name, name)}={_literal(value, f'{where}.{name}')}"
        for name, value in given.items()
    ]
    if texts and "|" in text:
        text = f"({text})"  # settings of a union, not of its last member
    whole = f"{text}({', '.join(texts)})" if texts else text
    return f"{whole} | None" if optional else whole


def _is_settings(term: object) -> bool:
    if isinstance(term, Mapping):
        return all(text_of(key) in SETTINGS for key in term)
    return isinstance(term, list) and all(isinstance(item, tuple) and len(item) == 2 for item in term)


def _is_keyword(term: object) -> bool:
    """Return whether a term is a list of pairs, which, unlike a map, keeps its order."""
    return (
        isinstance(term, list)
        and bool(term)
        and all(isinstance(item, tuple | list) and len(item) == 2 for item in term)
    )


def _object(fields: Mapping[Any, Any] | list[Any], where: str, depth: int) -> str:
    _check_count(fields, where)
    members = []
    for key, member in sorted_items(fields) if isinstance(fields, Mapping) else fields:
        name = text_of(key)
        if name is None:
            raise _error(f"expected a name as a key of {where}, got {shown(key)}", where)
        inside = f"{where}.{name}"
        described = {text_of(key): value for key, value in sorted_items(member)} if isinstance(member, Mapping) else {}
        if "type" in described and described.keys() <= {"type", *SETTINGS}:
            text = type_text(described.pop("type"), inside, depth + 1)
            members.append(f"{name}: {with_settings(text, list(described.items()), inside)}")
        else:
            members.append(f"{name}: {type_text(member, inside, depth + 1)}")
    return f"{{{', '.join(members)}}}"


def _generic(name: str, count: int) -> Callable[[list[Any], str, int], str]:
    def text(parts: list[Any], where: str, depth: int) -> str:
        if len(parts) != count:
            raise _error(f"expected {count} types in {name} at {where}, got {len(parts)}", where)
        return f"{name}[{', '.join(type_text(part, where, depth + 1) for part in parts)}]"

    return text


def _listed(parts: list[Any], where: str, depth: int) -> list[str]:
    types = parts[0] if len(parts) == 1 and isinstance(parts[0], list) else parts
    _check_count(types, where)
    return [type_text(part, where, depth + 1) for part in types]


def _tuple(parts: list[Any], where: str, depth: int) -> str:
    return f"tuple[{', '.join(_listed(parts, where, depth))}]"


def _union(parts: list[Any], where: str, depth: int) -> str:
    return " | ".join(_listed(parts, where, depth))


def _map(parts: list[Any], where: str, depth: int) -> str:
    # A map with one type has keys of text.
    return _generic("dict", 2)(parts if len(parts) == 2 else ["str", *parts], where, depth)


def _enum(parts: list[Any], where: str, depth: int) -> str:
    choices = parts[0] if len(parts) == 1 and isinstance(parts[0], list) else parts
    _check_count(choices, where)
    if not choices:
        raise _error(f"expected choices in {{:enum, […]}} at {where}", where)
    return f"Literal[{', '.join(_literal(choice, where) for choice in choices)}]"


def _optional(parts: list[Any], where: str, depth: int) -> str:
    if len(parts) != 1:
        raise _error(f"expected one type in {{:optional, …}} at {where}, got {len(parts)}", where)
    return f"{type_text(parts[0], where, depth + 1)} | None"


def _code(parts: list[Any], where: str, depth: int) -> str:
    return f"dspy.Code[{_literal(parts[0], where)}]"


def _inner(parts: list[Any], where: str, depth: int) -> str:
    if len(parts) != 1 or not (isinstance(parts[0], Mapping) or _is_keyword(parts[0])):
        raise _error(
            f"expected a map or a keyword list of types in {{:object, …}} at {where}, got {shown(parts)}", where
        )
    return _object(parts[0], where, depth)


_FORMS: Final[Mapping[str, Callable[[list[Any], str, int], str]]] = {
    "list": _generic("list", 1),
    "array": _generic("list", 1),
    "set": _generic("set", 1),
    "map": _map,
    "tuple": _tuple,
    "union": _union,
    "optional": _optional,
    "enum": _enum,
    "code": _code,
    "object": _inner,
}


def _check_count(members: Any, where: str) -> None:
    """Check the number of members before the text of each is made."""
    if isinstance(members, Sized) and len(members) > MAX_TYPE_MEMBERS:
        raise _error(
            f"expected at most {MAX_TYPE_MEMBERS} members at {where}, got {len(members)}", where, limit=MAX_TYPE_MEMBERS
        )


def _default(value: object, where: str, *, is_list: bool, depth: int = 1) -> str:
    """Return the text of a default, which may be a list or a map; ``is_list``: a list of integers is no charlist."""
    if depth > MAX_TYPE_DEPTH:
        raise _error(f"expected a default that nests at most {MAX_TYPE_DEPTH} levels at {where}", where)
    if isinstance(value, Mapping) or (isinstance(value, list) and value and _is_keyword_list(value)):
        entries = []
        for key, item in sorted_items(value) if isinstance(value, Mapping) else value:
            name = text_of(key)
            if name is None:
                raise _error(f"expected text as a key of {where}, got {shown(key)}", where)
            inside = _default(item, f"{where}.{name}", is_list=is_list, depth=depth + 1)
            entries.append(f"{string_text(name)}: {inside}")
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list | tuple | set) and (is_list or text_of(value) is None):
        items = sorted_keys(value) if isinstance(value, set) else value
        texts = (
            _default(item, f"{where}[{index}]", is_list=is_list, depth=depth + 1) for index, item in enumerate(items)
        )
        return f"[{', '.join(texts)}]"
    return _literal(value, where)


def _is_keyword_list(value: list[Any]) -> bool:
    """Return whether a list is a keyword list."""
    return all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Atom) for pair in value)


def _literal(value: object, where: str) -> str:
    text = text_of(value)
    if text is not None:
        return string_text(text)
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    raise _error(f"expected text, a number, true, false or nil at {where}, got {shown(value)}", where)


def _error(message: str, where: str, *, limit: int | None = None) -> OperationError:
    return OperationError("signature", message, path=where, limit=limit)
