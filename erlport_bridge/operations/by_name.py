"""Call any operation by its name, with its arguments as terms or as JSON: ``handle`` and ``handle_json``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from erlport_bridge.errors import EncodeError, OperationError, json_fault
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.operations.operation import (
    ERROR,
    OK,
    OPERATIONS,
    PYTHON_EXCEPTION,
    Answer,
    Operation,
    failure_term,
    offered,
)
from erlport_bridge.programs.text import arguments, quoted, suggestion
from erlport_bridge.request import weight
from erlport_bridge.term import OrderedMap

# These two are not called by name: they would call themselves.
_BY_NAME: Final = frozenset(["handle", "handle_json"])


@offered
async def handle(command: object, args: object = None) -> Answer:
    """Call an operation by name; its arguments are a list, or a map by the names of its parameters."""
    function, values = _called(command, args)
    answer = function(*values)
    return await answer if isinstance(answer, Awaitable) else answer


@offered
async def handle_json(command: object, text: object = None) -> Answer:
    """Call an operation by name, with its arguments as JSON text; answer JSON text too.

    The text is an array of the arguments in order, or an object of them by name. The members of an object keep their
    order. A term that JSON lacks becomes the nearest JSON value: a tuple an array, an atom a string, ``{:ok, value}``
    within a batch ``{"ok": value}``. The trace of a call that wants one is a term, beside the text.
    """
    trace: list[Any] = []
    try:
        given = await weight.aside(_json_arguments, text, heavy=weight.is_heavy(text))
        function, values = _called(command, given)
    except OperationError as error:
        status, answer = failure_term(error)
    else:
        outcome = function(*values)
        status, answer, *trace = await outcome if isinstance(outcome, Awaitable) else outcome
    try:
        return status, await weight.aside(_json_text, answer, heavy=weight.is_heavy(answer)), *trace
    except (TypeError, ValueError, RecursionError) as error:
        refused = EncodeError(f"cannot write the result as JSON: {error}; use the native format")
        return ERROR, _json_text(failure_term(refused)[1]), *trace


def _called(command: object, args: object) -> tuple[Operation, Sequence[Any]]:
    name = arguments.text(command, "command", NAME_BYTES)
    function = OPERATIONS.get(name)
    if function is None or name in _BY_NAME:
        known = sorted(OPERATIONS.keys() - _BY_NAME)
        raise OperationError(
            "input",
            f"unknown operation {quoted(name)}{suggestion(name, known)}; known: {', '.join(known)}",
            path="command",
        )
    if isinstance(args, list):
        return function, args
    given = arguments.options(args, "args")
    names = list(inspect.signature(function).parameters)
    for key in given:
        if key not in names:
            raise OperationError("input", f"{name} takes ({', '.join(names)}), got {quoted(key)}", path=f"args.{key}")
    last = max((names.index(key) for key in given), default=-1)
    return function, [given.get(key) for key in names[: last + 1]]


def _json_arguments(text: object) -> object:
    if text is None:
        return []
    try:
        return json.loads(arguments.text(text, "text"), object_pairs_hook=OrderedMap)
    except (ValueError, RecursionError) as error:
        raise OperationError("input", f"expected JSON at text: {json_fault(error)}", path="text") from None


def _json_text(value: object) -> str:
    return json.dumps(_json_value(value), allow_nan=False)


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and value[0] in (OK, ERROR):
        return {str(value[0]): _json_value(value[1])}
    if isinstance(value, tuple) and len(value) == 3 and value[0] in (OK, ERROR):
        return {str(value[0]): _json_value(value[1]), "trace": _json_value(value[2])}
    if isinstance(value, tuple) and len(value) == 2 and value[0] == PYTHON_EXCEPTION:
        return _json_value(value[1])
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return value
