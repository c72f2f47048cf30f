"""Write a program as JSON text, with its spec and what it has learned, and read it; never a pickle.

A loaded text goes through the same checks as a caller's arguments. It cannot name a model, an address or a key.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import dspy

from erlport_bridge.errors import EncodeError, OperationError, json_fault, refuse_constant
from erlport_bridge.programs.pipelines import learned
from erlport_bridge.programs.sessions.program import Program
from erlport_bridge.programs.text import arguments, inside
from erlport_bridge.programs.values import plain
from erlport_bridge.term import OrderedMap, shown

_FORMAT: Final = "dspex.program"
_VERSION: Final = 1
_KEYS: Final = frozenset({"format", "format_version", "dspy", "spec", "learned", "compiled", "neighbours"})
#: The maximum length of a text that is read.
MAX_CHARACTERS: Final = 16 * 1024 * 1024


def dump(program: Program) -> str:
    """Return a program as text.

    Raises:
        EncodeError: The spec or a demo contains a value that JSON lacks, such as a pid; the error has its path.
    """
    return json.dumps(_json_value(terms_of(program), ""), ensure_ascii=False, allow_nan=False)


def terms_of(program: Program) -> dict[str, Any]:
    """Return a program as a term that :func:`read` reads; errors as :func:`dump`."""
    stored = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "dspy": dspy.__version__,
        "spec": program.source,
        "learned": learned.describe(program.learned or {}),
        "compiled": program.compiled,
        "neighbours": program.neighbours.describe() if program.neighbours else None,
    }
    found: dict[str, Any] = plain(stored)
    return found


class Stored(NamedTuple):
    """The parts of a stored program; :func:`read` has checked only that ``spec`` and ``compiled`` are maps."""

    spec: dict[str, Any]
    learned: object
    compiled: Mapping[str, Any] | None
    neighbours: object


def load(text: object) -> Stored:
    """Read the text of a program.

    Raises:
        OperationError: Of kind ``store``: the text is not a stored program.
    """
    given = arguments.text(text, "text")
    if len(given) > MAX_CHARACTERS:
        raise _wrong(f"expected at most {MAX_CHARACTERS} characters at text, got {len(given)}")
    try:
        stored = json.loads(given, object_pairs_hook=OrderedMap, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"expected the JSON that dump_program gave at text: {json_fault(error)}") from None
    return read(stored)


def read(stored: object) -> Stored:
    """Read the term of a program that JSON or the store has held; errors as :func:`load`."""
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise _wrong(f'expected the JSON that dump_program gave at text, with "format": "{_FORMAT}"')
    if stored.get("format_version") != _VERSION:
        found = shown(stored.get("format_version"))
        raise _wrong(f"this version of erlport_bridge reads format_version {_VERSION}, and the text has {found}")
    try:
        arguments.only(stored, _KEYS, "key", "text")
        spec = arguments.options(stored.get("spec"), "text.spec")
        compiled = arguments.options(stored.get("compiled"), "text.compiled")
    except OperationError as error:
        raise _wrong(error.message) from None
    if "lm" in spec:
        raise _wrong("expected no model in a stored program, got one at text.spec.lm; give load_program the option lm")
    return Stored(spec, stored.get("learned"), compiled or None, stored.get("neighbours"))


def _wrong(message: str) -> OperationError:
    return OperationError("store", message, path="text")


def _json_value(value: Any, path: str) -> Any:
    """Return a term as a JSON value; dates and decimals become text, which their fields read again."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise EncodeError(f"cannot store a map with the key {shown(wrong[0])}: JSON has only text there", path)
        return {str(key): _json_value(item, inside(path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise EncodeError(f"cannot store {shown(value)}: JSON has nothing for it", path)
