"""Read the arguments of native calls of tools, which a model may write in another form than a JSON object.

DSPy's client makes objects of them: ``{"value": [1]}``, ``{"partial_json": "{…"}``, or ``{}``, and a tool would be
called with these. Here such arguments go through the client as they are, under a key that no tool has. They are read
like all JSON of models, with its mistakes, and are an answer that cannot be read if they are no object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import dspy
from dspy import lm15

from erlport_bridge import dspy_patches
from erlport_bridge.programs import values

#: The only key of arguments that are no JSON object; its value is their text.
_UNREAD: Final = "$unread"


def read_calls(calls: dspy.ToolCalls) -> dspy.ToolCalls:
    """Return calls of tools with their arguments read.

    Raises:
        UnreadableError: Arguments are no JSON object; the error has their path.
    """
    if not any(_UNREAD in call.args for call in calls.tool_calls):
        return calls
    read = [
        call if _UNREAD not in call.args else call.model_copy(update={"args": _read(call.args[_UNREAD], index)})
        for index, call in enumerate(calls.tool_calls)
    ]
    return calls.model_copy(update={"tool_calls": read})


def _read(text: Any, index: int) -> dict[str, Any]:
    try:
        return values.read_object(str(text))
    except values.UnreadableError as error:
        error.path = f'.tool_calls[{index}]["args"]'
        raise


def with_given_arguments(response: lm15.Response) -> lm15.Response:
    """Return a response with the arguments that the client has left out because they were no object."""
    parts = response.message.parts
    places = [index for index, part in enumerate(parts) if isinstance(part, lm15.ToolCallPart)]
    if not places:
        return response
    changed = list(parts)
    for index, given in zip(places, _given_arguments(response.provider_data), strict=False):
        if given is not None and not isinstance(given, Mapping):
            changed[index] = replace(parts[index], input=_unread(given))
    if all(new is old for new, old in zip(changed, parts, strict=True)):
        return response
    return replace(response, message=replace(response.message, parts=tuple(changed)))


def _given_arguments(data: Any) -> Iterator[Any]:
    """Yield the arguments of the calls in a reply of Anthropic's or Gemini's API, in their order."""
    if not isinstance(data, Mapping):
        return
    for block in _list(data.get("content")):
        if isinstance(block, Mapping) and block.get("type") == "tool_use":
            yield block.get("input")
    for candidate in _list(data.get("candidates"))[:1]:
        content = candidate.get("content") if isinstance(candidate, Mapping) else None
        for part in _list(content.get("parts")) if isinstance(content, Mapping) else ():
            call = part.get("functionCall") if isinstance(part, Mapping) else None
            if isinstance(call, Mapping):
                yield call.get("args")


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _unread(given: Any) -> dict[str, Any]:
    return {_UNREAD: given if isinstance(given, str) else json.dumps(given)}


def _object_of(given: Any) -> dict[str, Any]:
    """Return the arguments of a call for DSPy's client."""
    if given is None or given == "":
        return {}
    found = given
    if isinstance(given, str):
        try:
            found = json.loads(given, parse_constant=_refused)
        except (ValueError, RecursionError):
            return _unread(given)
        if found is None:  # what some servers write for a tool without arguments
            return {}
    return found if isinstance(found, dict) else _unread(given)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


#: The replacements of the patch ``call_arguments``.
REPLACEMENTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "dspy._vendor.lm15.providers.openai:parse_json_object": lambda _: _object_of,
    "dspy._vendor.lm15.providers.openai_chat:parse_json_object": lambda _: _object_of,
    "dspy._vendor.lm15.result:_parse_json_best_effort": lambda _: _object_of,
}

dspy_patches.provide("call_arguments", REPLACEMENTS)
