"""Find the value of an output field in a text: nearest to the question, and valid for the field's JSON schema."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from erlport_bridge.programs.models.embedded import bounds
from erlport_bridge.programs.models.embedded.prompt_reading import OTHER_KEYS, Schema
from erlport_bridge.programs.text import (
    Passages,
    dates,
    evaluate,
    find_expression,
    listed_items,
    numbers,
    weighted_query,
    words,
)

_LISTED_SENTENCES: Final = 3
_QUOTED_CHARACTERS: Final = 160
_QUOTED_WORDS: Final = 6
_MAX_DEPTH: Final = 8
# Weight of a field's name and description in the query; the question has weight 1.
_FIELD_WEIGHT: Final = 0.4
# Field names that say nothing about the value.
_GENERIC_NAMES: Final = frozenset(("answer", "output", "result", "response", "reply", "value", "text"))

_NEGATION: Final = re.compile(r"\b(?:not|no|never|false|none|cannot|without)\b|n't\b", re.IGNORECASE)
_KEY_VALUE: Final = re.compile(r"^[ \t]*[\"']?(\w[\w \-]{0,40}?)[\"']?[ \t]*[:=][ \t]*(\S.{0,200})$", re.MULTILINE)
_FORMATS: Final[Mapping[str, tuple[str, str]]] = {
    # Format -> pattern to find in the text, and a valid value if the text has no match.
    "date-time": (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2})?(?:Z|[+-]\d{2}:\d{2})?", "1970-01-01T00:00:00Z"),
    "time": (r"\b\d{2}:\d{2}(?::\d{2})?\b", "00:00:00"),
    "duration": (r"\bP(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?\b", "PT0S"),
    "uuid": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "00000000-0000-0000-0000-000000000000"),
    "uri": (r"https?://[^\s\"'<>]+", "about:blank"),
    "email": (r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}", "nobody@example.com"),
}


@dataclass
class SourceText:
    """The question and the text of a prompt, from which answers are extracted.

    Attributes:
        question: The question; may be empty (``document -> summary``).
        text: The text to answer from; may be empty.
        reason: One sentence that says where the last answer came from.
        passages: The index of the text's sentences.
    """

    question: str
    text: str
    reason: str = "No text was given, only the question."
    passages: Passages = field(init=False)

    def __post_init__(self) -> None:
        self.passages = Passages(self.text)

    def ranked(self, wanted: str) -> list[str]:
        """Return all sentences of the text, ranked by the question and the words of the field, nearest first."""
        query = weighted_query((wanted, _FIELD_WEIGHT), (self.question, 1.0))
        order = self.passages.ranked(query)
        if order:
            self._give_reason(order[0], query)
        return [self.passages.sentences[index] for index in order]

    def _give_reason(self, index: int, query: Mapping[str, float]) -> None:
        sentence = self.passages.sentences[index]
        # In the order of the query, which is the question's: the order of a set differs from process to process.
        found = set(words(sentence))
        shared = [word for word in query if word in found][:_QUOTED_WORDS]
        why = f"shares most with the question ({', '.join(shared)})" if shared else "is the first; none shares a word"
        self.reason = f"Sentence {index + 1} of {len(self.passages.sentences)} {why}: {quoted(sentence)}"

    def computed(self, expression: str) -> int | float:
        """Return the value of an arithmetic expression in the question."""
        self.reason = f"The question asks to compute {expression}."
        return evaluate(expression)


def quoted(text: str) -> str:
    """Return a text in quotation marks on one line, cut if it is long."""
    text = " ".join(text[: 4 * _QUOTED_CHARACTERS].split())
    return f'"{text}"' if len(text) <= _QUOTED_CHARACTERS else f'"{text[:_QUOTED_CHARACTERS]}…"'


def wanted_words(name: str, description: str) -> str:
    """Return the words of a field's name and description that help to find its value."""
    name = " ".join(part for part in name.lower().split("_") if part not in _GENERIC_NAMES)
    return f"{name} {description}"


def answer(source: SourceText, schema: Schema, wanted: str) -> Any:
    """Return the value in the text that is nearest to the question and valid for a schema.

    Args:
        source: The question and the text.
        schema: JSON schema as pydantic writes it: types, enum, const, anyOf, allOf, $ref, formats, arrays, objects.
        wanted: Further words for the search, see :func:`wanted_words`.

    Returns:
        A JSON value, always valid for types, enums, formats, bounds and lengths. If the text has no value, an optional
        value is ``None``, a number is 0 or the next that is allowed, and a text says that no text was given.
    """
    return _Answering(source, schema).value(schema, wanted, 0)


class _Answering:
    def __init__(self, source: SourceText, root: Schema) -> None:
        self.source = source
        self.root = root

    def value(self, schema: Schema, wanted: str, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return nearest_option(self.source, list(schema["enum"]), wanted)
        alternatives = schema.get("anyOf") or schema.get("oneOf")
        if alternatives:
            return self._any_of(alternatives, wanted, depth)
        kind = schema.get("type", "string")
        if kind in ("integer", "number"):
            return self._number(schema, wanted)
        if kind == "boolean":
            return self._truth(wanted)
        if kind == "array":
            return self._array(schema, wanted, depth)
        if kind == "object":
            return self._object(schema, wanted, depth)
        return None if kind == "null" else self._string(schema, wanted)

    def _resolved(self, schema: Schema) -> Schema:
        if "$ref" in schema:
            definitions: Mapping[str, Schema] = self.root.get("$defs", {})
            return definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
        if len(schema.get("allOf", ())) == 1:
            return self._resolved(schema["allOf"][0])
        return schema

    def _any_of(self, alternatives: list[Schema], wanted: str, depth: int) -> Any:
        optional = any(alternative.get("type") == "null" for alternative in alternatives)
        others = [alternative for alternative in alternatives if alternative.get("type") != "null"]
        if optional and (not others or depth >= _MAX_DEPTH or not self._has_value(others[0], wanted)):
            return None
        return self.value(others[0], wanted, depth + 1)

    def _has_value(self, schema: Schema, wanted: str) -> bool:
        schema = self._resolved(schema)
        if schema.get("type") in ("integer", "number"):
            return self._find_number(wanted) is not None
        if schema.get("format") == "date":
            return bool(dates(self.source.text) or dates(self.source.question))
        return bool(self.source.passages.sentences)

    def _number(self, schema: Schema, wanted: str) -> int | float:
        return bounds.number(self._find_number(wanted) or 0, schema)

    def _find_number(self, wanted: str) -> int | float | None:
        """Return the result that the question asks to compute, else the number of the text nearest to the question.

        A number that the question contains too is used only if the text has no other number.
        """
        expression = find_expression(self.source.question)
        if expression is not None and not numbers(self.source.text):
            return self.source.computed(expression)
        asked = set(numbers(self.source.question))
        fallback: int | float | None = None
        for sentence in self.source.ranked(wanted):
            found = numbers(sentence)
            fresh = [number for number in found if number not in asked]
            if fresh:
                self.source.reason = f"The nearest sentence with a number says {quoted(sentence)}"
                return fresh[0]
            if found and fallback is None:
                fallback = found[0]
        return fallback if fallback is not None else next(iter(numbers(self.source.question)), None)

    def _truth(self, wanted: str) -> bool:
        ranked = self.source.ranked(wanted)
        if not ranked:
            return False
        return bool(_NEGATION.search(ranked[0])) == bool(_NEGATION.search(self.source.question))

    def _array(self, schema: Schema, wanted: str, depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(item, wanted, depth + 1) for item in schema["prefixItems"]]
        items = self._resolved(schema.get("items", {}))
        kind = items.get("type", "string") if not ({"enum", "anyOf"} & items.keys()) else "other"
        if kind in ("integer", "number"):
            values: list[Any] = [bounds.number(one, items) for one in self._number_list(kind, wanted)]
        elif kind == "string" and "format" not in items:
            values = [bounds.text(one, items, self.source.text) for one in self._text_list(wanted)]
        else:
            has_value = depth < _MAX_DEPTH and bool(self.source.passages.sentences)
            values = [self.value(items, wanted, depth + 1)] if has_value else []
        return bounds.elements(
            values, schema, lambda: self.value(items, wanted, depth + 1), bounds.different(self._first(items))
        )

    def _first(self, schema: Schema) -> Schema:
        """Return the alternative of a schema that is answered."""
        found = self._resolved(schema)
        alternatives = found.get("anyOf") or found.get("oneOf") or ()
        return next((self._resolved(one) for one in alternatives if one.get("type") != "null"), found)

    def _number_list(self, kind: str, wanted: str) -> list[Any]:
        with_numbers = (found for sentence in self.source.ranked(wanted) if (found := numbers(sentence)))
        found = next(with_numbers, []) or numbers(self.source.question)
        return [round(number) for number in found] if kind == "integer" else list(found)

    def _text_list(self, wanted: str) -> list[str]:
        ranked = self.source.ranked(wanted)
        if not ranked:
            return []
        return listed_items(ranked[0]) or list(dict.fromkeys(ranked))[:_LISTED_SENTENCES]

    def _object(self, schema: Schema, wanted: str, depth: int) -> dict[str, Any]:
        if "properties" not in schema:
            return self._mapping(schema, depth)
        required = schema.get("required", ())
        return {
            name: self.value(
                part,
                f"{wanted} {wanted_words(name, part.get('title', '') + ' ' + part.get('description', ''))}",
                depth + 1,
            )
            for name, part in schema["properties"].items()
            if name in required or ("default" not in part and depth < _MAX_DEPTH)
        }

    def _mapping(self, schema: Schema, depth: int) -> dict[str, Any]:
        """Return the ``key: value`` lines of the text as a map, with values that are valid for the schema."""
        item = schema.get("additionalProperties", True)
        item = {} if isinstance(item, bool) else self._resolved(item)
        found: dict[str, Any] = {}
        if depth >= _MAX_DEPTH or self.root.get(OTHER_KEYS):
            return found
        keys = self._resolved(schema.get("propertyNames", {})).get("enum")
        for match in _KEY_VALUE.finditer(self.source.text):
            if len(found) == schema.get("maxProperties"):
                return found
            name = match[1].strip()
            if keys is None or name in keys:
                part = _Answering(SourceText(self.source.question, match[2].strip()), self.root)
                found.setdefault(name, part.value(item, "", depth + 1))
        names = (str(number) for number in range(1, schema.get("minProperties", 0) + 1)) if keys is None else keys
        for name in names:
            if len(found) >= schema.get("minProperties", 0):
                break
            found.setdefault(name, self.value(item, "", depth + 1))
        return found

    def _string(self, schema: Schema, wanted: str) -> str:
        form = schema.get("format", "")
        if form == "date":
            found = dates(" ".join(self.source.ranked(wanted))) or dates(self.source.question)
            return (found[0] if found else datetime.date(1970, 1, 1)).isoformat()
        if form in _FORMATS:
            pattern, default = _FORMATS[form]
            match = re.search(pattern, " ".join(self.source.ranked(wanted)))
            return match[0] if match and match[0] != "P" else default
        return bounds.text(self.text(wanted), schema, self.source.text)

    def text(self, wanted: str) -> str:
        """Return the sentence nearest to the question, or a sentence that no text was given."""
        ranked = self.source.ranked(wanted)
        if ranked:
            return ranked[0]
        expression = find_expression(self.source.question)
        if expression is not None:
            return str(self.source.computed(expression))
        if not self.source.question:
            return "No text was given to answer from."
        return f"No text was given to answer from: {quoted(self.source.question)}"


def nearest_option(source: SourceText, options: list[Any], wanted: str) -> Any:
    """Return the option whose words match best: the nearest sentence counts 4, the question 2, the whole text 1."""
    ranked = source.ranked(wanted)
    nearest = set(words(ranked[0] if ranked else ""))
    question = set(words(source.question))
    anywhere = set(words(source.text))

    def score(option: Any) -> float:
        parts = words(str(option).replace("_", " ")) or [str(option).lower()]
        points = [4 * (part in nearest) + 2 * (part in question) + (part in anywhere) for part in parts]
        return sum(points) / len(points)

    return max(options, key=score)  # the first of equal options


def conform(value: Any, schema: Schema, source: SourceText) -> Any:
    """Return a value from another source in the type of a schema.

    Args:
        value: A JSON value, such as the output of a program.
        schema: JSON schema, see :func:`answer`.
        source: The question; its text is not used.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    kind = schema.get("type")
    if kind == "string" and "format" not in schema and "enum" not in schema:
        return bounds.text(text, schema, "")
    if value in schema.get("enum", ()):
        return value
    if kind == "boolean" and (isinstance(value, bool) or text.lower() in ("true", "false")):
        return text.lower() == "true"
    if kind == "array" and isinstance(value, list):
        items = schema.get("items", {})
        found = [conform(item, items, source) for item in value]
        return bounds.elements(found, schema, lambda: answer(source, items, ""), bounds.different(items))
    if isinstance(value, int | float) and (
        (kind == "number" and type(value) in (int, float)) or (kind == "integer" and type(value) is int)
    ):
        return bounds.number(value, schema)
    if kind == "object" and isinstance(value, dict) and set(schema.get("required", ())) <= value.keys():
        return value
    return answer(SourceText("", text), schema, "")
