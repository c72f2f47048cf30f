"""Read the arguments of an operation as an Elixir or Erlang caller writes them.

Text may be a binary, an atom or a charlist. Options may be a map or a keyword list, with atoms or strings as keys.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeGuard

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ENTRIES, Limit
from erlport_bridge.programs.text.wording import expected_text, quoted, suggestion, text_of
from erlport_bridge.term import Atom, shown

#: For ``isinstance``, as ``Mapping``, which is asked by a function in Python: a ``dict`` is found before that.
MAPPINGS: Final = (dict, Mapping)
#: The longest timeout: 2^32 - 1 milliseconds (49 days), Erlang's own limit.
MAX_TIMEOUT_MS: Final = 2**32 - 1


def text(value: object, path: str, limit: Limit | None = None) -> str:
    """Read text that is not empty.

    Args:
        value: A binary, an atom, or a charlist.
        path: The argument's path, for the error.
        limit: The limit on its bytes, if it is an id or a name.

    Raises:
        OperationError: Of kind ``input``: ``value`` is empty or not text, or exceeds the limit.
    """
    if limit is not None and isinstance(value, bytes | list):
        # Before the text of a charlist is made.
        limit.check(len(value), path)
    found = text_of(value)
    if found:
        if limit is not None:
            limit.check_text(found, path)
        return found
    raise OperationError("input", expected_text(path, value), path=path)


def optional_text(value: object, path: str, limit: Limit | None = None) -> str | None:
    """Read text, or return ``None`` for ``nil``."""
    return None if value is None else text(value, path, limit)


def is_number(value: object) -> bool:
    """Return whether a term is a finite number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of hundreds of digits
        return False


def boolean(value: object, path: str, *, default: bool = False) -> bool:
    """Read ``true`` or ``false``; return ``default`` for ``nil``.

    Raises:
        OperationError: Of kind ``input``: ``value`` is none of them.
    """
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise OperationError("input", f"expected true or false at {path}, got {shown(value)}", path=path)


def options(value: object, path: str) -> dict[str, Any]:
    """Read a map of options.

    Args:
        value: A map, a keyword list, or ``nil`` for no options.
        path: The argument's path, for the error.

    Returns:
        A new dict with plain ``str`` keys.

    Raises:
        OperationError: Of kind ``input``: ``value`` is none of them, has too many entries, or a key comes twice, or is
            neither an atom nor a string.
    """
    if value is None:
        return {}
    if isinstance(value, (*MAPPINGS, list)):
        ENTRIES.check(len(value), path)
    if isinstance(value, MAPPINGS):
        pairs = list(value.items())
    elif is_keyword_list(value):
        pairs = value
    else:
        raise OperationError("input", f"expected a map or a keyword list at {path}, got {outline(value)}", path=path)
    for key, _ in pairs:
        if not isinstance(key, str):
            raise OperationError(
                "input", f"expected an atom or a string as a key of {path}, got {outline(key)}", path=path
            )
    read = {str(key): item for key, item in pairs}
    if len(read) < len(pairs):
        names = [str(key) for key, _ in pairs]
        key = next(name for name in names if names.count(name) > 1)
        raise OperationError(
            "input",
            f"expected the key {quoted(key)} once at {path}, got it {names.count(key)} times",
            path=f"{path}.{key}",
        )
    return read


def is_keyword_list(value: object) -> TypeGuard[list[tuple[Any, Any]]]:
    """Return whether a value is a list of pairs, as Elixir writes options."""
    return isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value)


def outline(value: object) -> str:
    """Return the kind of a value that came in place of options, without its content, which may hold an API key."""
    for kind, name in ((Atom, None), (str, "a string"), (list, "a list"), (tuple, "a tuple"), (Mapping, "a map")):
        if isinstance(value, kind):
            return name or shown(value)
    return shown(value)


def timeout_ms(value: object, path: str = "opts.timeout") -> int | None:
    """Read a timeout in milliseconds; return ``None`` for ``nil`` and ``:infinity``.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not an integer from 1 to :data:`MAX_TIMEOUT_MS`.
    """
    if value is None or value == "infinity":
        return None
    if type(value) is int and 0 < value <= MAX_TIMEOUT_MS:
        return value
    raise OperationError(
        "input", f"expected milliseconds, from 1 to {MAX_TIMEOUT_MS}, at {path}, got {shown(value)}", path=path
    )


#: No hints for :func:`unknown`.
NO_HINTS: Final[Mapping[str, str]] = {}


def unknown(
    what: str,
    name: str,
    known: Collection[str],
    where: str,
    path: str | None = None,
    hints: Mapping[str, str] = NO_HINTS,
) -> OperationError:
    """Return the error about an unknown name, with the nearest known name as a suggestion.

    Args:
        what: What the name should stand for, such as ``option``.
        name: The unknown name.
        known: All names that are allowed here.
        where: The place of the name, as the message shows it.
        path: The ``path`` of the error's details; by default ``where``.
        hints: What the message says in place of a suggestion, by names that have their place elsewhere.
    """
    choices = ", ".join(sorted(known))
    hint = f"; {hints[name]}" if name in hints else suggestion(name, known)
    message = f"unknown {what} {quoted(name)} at {where}{hint}; known here: {choices}"
    return OperationError("input", message, path=path or where)


def only(
    given: Mapping[str, Any],
    known: Collection[str],
    what: str,
    path: str,
    hints: Mapping[str, str] = NO_HINTS,
    offered: Collection[str] | None = None,
) -> None:
    """Raise the error of :func:`unknown` for the first key of ``given`` that is not in ``known``.

    ``offered`` are the names that the error offers, as a caller of ``DSPex.Python`` writes them; by default ``known``.
    """
    for name in given:
        if name not in known:
            raise unknown(what, name, known if offered is None else offered, path, f"{path}.{name}", hints)
