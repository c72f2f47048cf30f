"""Write the answers of the language model server: what a prompt of DSPy asks for."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Final

_REQUIREMENTS: Final = re.compile(r"Respond with (?:the corresponding output fields|a JSON object in the following)")
_FIELD: Final = re.compile(
    r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`(?: \(must be formatted as a valid Python ((?:[^()]|\([^()]*\))*)\))?"
)
_SECTION: Final = re.compile(r"\[\[ ## \w+ ## \]\]\n(.*?)(?=\n\n\[\[ ## |\n\nRespond with |\Z)", re.DOTALL)


def prompt(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return the system text and the last user message of a request, whatever the provider's format."""
    messages = body.get("messages") or body.get("input") or body.get("contents") or []
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    system = [_text(body.get("system") or body.get("instructions") or body.get("systemInstruction") or "")]
    system += [_text(_content(message)) for message in messages if message["role"] in ("system", "developer")]
    users = [_text(_content(message)) for message in messages if message["role"] == "user"]
    return "".join(system), users[-1] if users else ""


def _content(message: Mapping[str, Any]) -> Any:
    return message["content"] if "content" in message else message["parts"]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = content["parts"]
    return "".join(part.get("text", "") for part in content)


def completion(user: str, fields: Mapping[str, Any], prefix: str) -> str:
    """Return an answer with every output field that a prompt of DSPy asks for.

    Args:
        user: The last user message.
        fields: Given values of fields; the values of other fields are made up from their types.
        prefix: The text before the first input's value in a text field.
    """
    starts = [match.start() for match in _REQUIREMENTS.finditer(user)]
    requirement = user[starts[-1] :] if starts else ""
    first_input = _SECTION.search(user)
    text = prefix + (first_input[1].strip() if first_input else user.strip())
    listed = _FIELD.findall(requirement)
    if not requirement.startswith("Respond with a JSON object"):
        listed = listed[:-1]  # the closing marker
    wanted = {name: kind or "str" for name, kind in listed}
    values = {name: fields.get(name, _value(kind, text)) for name, kind in wanted.items()}
    if requirement.startswith("Respond with a JSON object"):
        return json.dumps(values)
    sections = [f"[[ ## {name} ## ]]\n{_written(value)}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(kind: str, text: str) -> Any:
    """Return a valid value for a type as DSPy writes it."""
    fixed: dict[str, Any] = {"str": text, "int": 42, "float": 0.5, "bool": True}
    if kind in fixed:
        return fixed[kind]
    if kind.startswith("Literal["):
        # ReAct's tools: finishing at once is the one choice that always ends.
        return "finish" if "'finish'" in kind else ast.literal_eval(kind.removeprefix("Literal"))[0]
    if kind.startswith("list["):
        return [_value(kind[len("list[") : -1], text)]
    return {} if kind.startswith("dict[") else None
