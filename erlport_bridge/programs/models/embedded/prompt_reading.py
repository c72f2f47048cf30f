"""Parse the prompts of DSPy's ChatAdapter and JSONAdapter back into fields, values and types.

The system message names the fields. The last user message has the values, each under a ``[[ ## name ## ]]`` header. A
value may contain anything, even such a header: no value can make parsing fail, and only fields that the system message
names are looked for.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

#: The key by which :func:`read_prompt` marks a schema with a map whose keys are not text (``dict[int, str]``), since
#: JSON schema cannot express it.
OTHER_KEYS: Final = "x-other-keys"

_INPUTS_HEADING: Final = "Your input fields are:\n"
_OUTPUTS_HEADING: Final = "Your output fields are:\n"
_STRUCTURE_HEADING: Final = "All interactions will be structured"
_OBJECTIVE_HEADING: Final = "In adhering to this structure, your objective is:"
_JSON_OUTPUTS_HEADING: Final = "Outputs will be a JSON object with the following fields."
_REQUIREMENTS: Final = ("Respond with the corresponding output fields, starting with", "Respond with a JSON object in")

_FIELD: Final = re.compile(r"^(\d+)\. `(\w+)` \((.*?)\):(?: (.*))?$")
_NOTE: Final = "# note: the value you produce "
_ONE_OF: Final = re.compile(r"must (?:be|exactly match \(no extra characters\)) one of: (.*)", re.DOTALL)
_OTHER_KEYS_TYPE: Final = re.compile(r"\bdict\[(?!str,|Any,)")
_ADHERES: Final = "must adhere to the JSON schema: "
_SIMPLE_NOTES: Final[Mapping[str, str]] = {
    "must be True or False": "boolean",
    "must be a single int value": "integer",
    "must be a single float value": "number",
}
_TOOL: Final = re.compile(
    r"\(\d+\) (\w+)(?:, whose description is <desc>(.*?)</desc>)?\. {1,3}It takes arguments (\{.*\})\."
)


_CONSTRAINTS: Final = "Constraints: "
_PATTERN: Final = "matching the regular expression: "
_CONSTRAINT: Final = re.compile(
    r"(greater than or equal to|greater than|less than or equal to|less than|minimum length|maximum length"
    r"|a multiple of the given number): (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=,|$)"
)
_OF_NUMBERS: Final[Mapping[str, str]] = {
    "greater than": "exclusiveMinimum",
    "greater than or equal to": "minimum",
    "less than": "exclusiveMaximum",
    "less than or equal to": "maximum",
    "a multiple of the given number": "multipleOf",
}
# What DSPy's words are in JSON schema, by type.
_KEYWORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "integer": _OF_NUMBERS,
    "number": _OF_NUMBERS,
    "string": {"minimum length": "minLength", "maximum length": "maxLength", "pattern": "pattern"},
    "array": {"minimum length": "minItems", "maximum length": "maxItems"},
    "object": {"minimum length": "minProperties", "maximum length": "maxProperties"},
}


@dataclass(frozen=True)
class PromptField:
    """A field of the signature, as the prompt describes it.

    Attributes:
        name: The field's name.
        type_text: The type as DSPy writes it, such as ``list[int]``.
        description: The field's ``desc``, or an empty string.
        schema: JSON schema of an output field's value; ``{"type": "string"}`` where DSPy asks for plain text.
    """

    name: str
    type_text: str
    description: str
    schema: Schema


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt.

    Attributes:
        inputs: The input fields that have a value, each with the value as text, in the signature's order.
        outputs: The output fields in the signature's order.
        instructions: The signature's instructions, with DSPy's indentation removed.
        wants_json: Whether the answer is one JSON object (JSONAdapter) instead of sections (ChatAdapter).
    """

    inputs: tuple[tuple[PromptField, str], ...]
    outputs: tuple[PromptField, ...]
    instructions: str
    wants_json: bool

    def value(self, name: str) -> str | None:
        """Return the value of an input field, or ``None`` if the prompt has no such field."""
        return next((value for field, value in self.inputs if field.name == name), None)


@dataclass(frozen=True)
class OfferedTool:
    """A tool as ReAct's prompt describes it; ``arguments`` maps names to JSON schemas."""

    name: str
    description: str
    arguments: Mapping[str, Schema]


def read_prompt(system: str, user: str) -> Prompt:
    """Parse the system message and the last user message of a request.

    Args:
        system: The system message. If no adapter of DSPy wrote it, the result has no fields.
        user: The last user message.
    """
    head, _, objective = system.partition(_OBJECTIVE_HEADING)
    fields, _, structure = head.partition(_STRUCTURE_HEADING)
    inputs_text, _, outputs_text = fields.partition(_OUTPUTS_HEADING)
    wants_json = _JSON_OUTPUTS_HEADING in structure
    listed = _listed_fields(outputs_text)
    notes = _json_notes(structure) if wants_json else _chat_notes(structure, [name for name, _, _ in listed])
    outputs = tuple(
        PromptField(name, type_text, description, _bounded(_schema(notes.get(name, ""), type_text), description))
        for name, type_text, description in listed
    )
    inputs = _listed_fields(inputs_text.removeprefix(_INPUTS_HEADING))
    values = sections(_without_requirements(user), [name for name, _, _ in inputs])
    return Prompt(
        inputs=tuple(
            (PromptField(name, type_text, description, {}), values[name])
            for name, type_text, description in inputs
            if name in values
        ),
        outputs=outputs,
        instructions="\n".join(line.removeprefix(" " * 8) for line in objective.splitlines()).strip(),
        wants_json=wants_json,
    )


def sections(text: str, names: Iterable[str]) -> dict[str, str]:
    """Return the sections of a text by the names in their headers.

    The names are searched in order, each behind the header before, so a header inside a value usually stays part of
    the value. A name without a section is left out.
    """
    found: list[tuple[str, int, int]] = []
    position = 0
    for name in names:
        header = f"[[ ## {name} ## ]]"
        start = position if text.startswith(header, position) else text.find("\n" + header, position)
        if start >= 0:
            begin = text.index(header, start)
            position = begin + len(header)
            found.append((name, begin, position))
    ends = [*(begin for _, begin, _ in found[1:]), len(text)]
    return {name: text[start:end].strip() for (name, _, start), end in zip(found, ends, strict=False)}


def numbered_sections(text: str, prefix: str) -> list[str]:
    """Return the sections ``prefix_0``, ``prefix_1``, … of a ReAct trajectory, in the order of their headers."""
    pattern = re.compile(r"^\[\[ ## (thought|tool_name|tool_args|observation)_\d+ ## \]\]$", re.MULTILINE)
    headers = list(pattern.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)]
    return [text[header.end() : end].strip() for header, end in zip(headers, ends, strict=False) if header[1] == prefix]


def offered_tools(instructions: str, allowed: Iterable[str]) -> list[OfferedTool]:
    """Return the tools that ReAct's instructions describe and whose names the output's type allows."""
    allowed = set(allowed)
    found: dict[str, OfferedTool] = {}
    for line in instructions.splitlines():
        match = _TOOL.fullmatch(line.strip())
        if match is None or match[1] not in allowed:
            continue
        try:
            arguments = ast.literal_eval(match[3])
        except (ValueError, SyntaxError):  # a default value without a literal
            arguments = {}
        found[match[1]] = OfferedTool(match[1], match[2] or "", arguments)
    return list(found.values())


def _listed_fields(text: str) -> list[tuple[str, str, str]]:
    """Return name, type and description from a numbered list; a description may span several lines."""
    fields: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        match = _FIELD.match(line)
        if match and int(match[1]) == len(fields) + 1:
            fields.append((match[2], match[3], match[4] or ""))
        elif fields and line.strip():
            name, type_text, description = fields[-1]
            fields[-1] = (name, type_text, f"{description}\n{line}".strip())
    return fields


def _chat_notes(structure: str, names: list[str]) -> dict[str, str]:
    # Cut at the last closing marker of DSPy: a field may be named `completed` too.
    structure = structure.rpartition("[[ ## completed ## ]]")[0]
    return {name: _note(section) for name, section in sections(structure, names).items()}


def _json_notes(structure: str) -> dict[str, str]:
    text = structure.partition(_JSON_OUTPUTS_HEADING)[2].strip()
    try:
        notes, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return {}
    return {name: _note(note) for name, note in notes.items() if isinstance(note, str)}


def _note(section: str) -> str:
    return section.partition(_NOTE)[2]


def _schema(note: str, type_text: str) -> Schema:
    """Return the JSON schema for DSPy's note on a value."""
    if note in _SIMPLE_NOTES:
        return {"type": _SIMPLE_NOTES[note]}
    one_of = _ONE_OF.fullmatch(note)
    if one_of is not None:
        return {"enum": _options(one_of[1], type_text)}
    if note.startswith(_ADHERES):
        try:
            schema = json.loads(note.removeprefix(_ADHERES))
        except ValueError:
            return {"type": "string"}
        if not isinstance(schema, dict):
            return {}
        return {**schema, OTHER_KEYS: True} if _OTHER_KEYS_TYPE.search(type_text) else schema
    return {"type": "string"}


def _bounded(schema: Schema, description: str) -> Schema:
    """Return a schema with the constraints of its field, which DSPy writes below the field's description."""
    last = description.rpartition("\n")[2]
    if not last.startswith(_CONSTRAINTS):
        return schema
    stated, _, pattern = last.removeprefix(_CONSTRAINTS).partition(_PATTERN)
    found = {words: json.loads(value) for words, value in _CONSTRAINT.findall(stated)}
    return _with_constraints(schema, found | ({"pattern": pattern} if pattern else {}))


def _with_constraints(schema: Schema, found: Mapping[str, Any]) -> Schema:
    for members in ("anyOf", "oneOf"):
        if members in schema:
            return {**schema, members: [_with_constraints(member, found) for member in schema[members]]}
    keywords = _KEYWORDS.get(str(schema.get("type", "")), {})
    return {**schema, **{keywords[words]: value for words, value in found.items() if words in keywords}}


def _options(listed: str, type_text: str) -> list[Any]:
    """Return the options of a Literal or an enum: exact values from ``Literal[…]``, else DSPy's list, split."""
    try:
        options = list(ast.literal_eval(type_text.removeprefix("Literal")))
    except (ValueError, SyntaxError, TypeError):
        return listed.split("; ")
    return options if "; ".join(map(str, options)) == listed else listed.split("; ")


def _without_requirements(user: str) -> str:
    """Return the user message without its last sentence on the output fields; a value may contain such a sentence."""
    cut = max(user.rfind(requirement) for requirement in _REQUIREMENTS)
    return user if cut < 0 else user[:cut]
