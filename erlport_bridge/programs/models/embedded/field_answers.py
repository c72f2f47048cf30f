"""Answers by JSON schema from a text: the value in it that is nearest to a question and valid for the schema."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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
# A field's own name and description say what it wants, but less surely than the question does.
_FIELD_WEIGHT: Final = 0.4
# Names that say nothing about what is wanted.
_GENERIC_NAMES: Final = frozenset(("answer", "output", "result", "response", "reply", "value", "text"))

_NEGATION: Final = re.compile(r"\b(?:not|no|never|false|none|cannot|without)\b|n't\b", re.IGNORECASE)
_KEY_VALUE: Final = re.compile(r"^[ \t]*[\"']?(\w[\w \-]{0,40}?)[\"']?[ \t]*[:=][ \t]*(\S.{0,200})$", re.MULTILINE)
_FORMATS: Final[Mapping[str, tuple[str, str]]] = {
    # A pattern to find in the text, and what is valid where the text has none.
    "date-time": (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2})?(?:Z|[+-]\d{2}:\d{2})?", "1970-01-01T00:00:00Z"),
    "time": (r"\b\d{2}:\d{2}(?::\d{2})?\b", "00:00:00"),
    "duration": (r"\bP(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?\b", "PT0S"),
    "uuid": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "00000000-0000-0000-0000-000000000000"),
    "uri": (r"https?://[^\s\"'<>]+", "about:blank"),
    "email": (r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}", "nobody@example.com"),
}


@dataclass
class SourceText:
    """What an answer is taken from.

    Attributes:
        question: What was asked; may be empty (``document -> summary``).
        text: What is given to answer from; may be empty.
        reason: One sentence on where the last answer came from.
    """

    question: str
    text: str
    reason: str = "No text was given, only the question."
    passages: Passages = field(init=False)

    def __post_init__(self) -> None:
        self.passages = Passages(self.text)

    def ranked(self, wanted: str) -> list[str]:
        """Give all sentences of the text, nearest to the question and to what is wanted first."""
        query = weighted_query((wanted, _FIELD_WEIGHT), (self.question, 1.0))
        order = self.passages.ranked(query)
        if order:
            self._give_reason(order[0], query)
        return [self.passages.sentences[index] for index in order]

    def _give_reason(self, index: int, query: Mapping[str, float]) -> None:
        sentence = self.passages.sentences[index]
        # In the query's order, which is that of the question: a set's order differs from process to process.
        found = set(words(sentence))
        shared = [word for word in query if word in found][:_QUOTED_WORDS]
        why = f"shares most with the question ({', '.join(shared)})" if shared else "is the first; none shares a word"
        self.reason = f"Sentence {index + 1} of {len(self.passages.sentences)} {why}: {quoted(sentence)}"

    def computed(self, expression: str) -> int | float:
        """Give the value of an arithmetic expression of the question."""
        self.reason = f"The question asks to compute {expression}."
        return evaluate(expression)


def quoted(text: str) -> str:
    """Give a text in quotation marks on one line, cut short."""
    text = " ".join(text[: 4 * _QUOTED_CHARACTERS].split())
    return f'"{text}"' if len(text) <= _QUOTED_CHARACTERS else f'"{text[:_QUOTED_CHARACTERS]}…"'


def wanted_words(name: str, description: str) -> str:
    """Give the words of a field's name and description that help to find its value."""
    name = " ".join(part for part in name.lower().split("_") if part not in _GENERIC_NAMES)
    return f"{name} {description}"


def answer(source: SourceText, schema: Schema, wanted: str) -> Any:
    """Give the value for a schema that is nearest to the question.

    Args:
        source: The question and the text.
        schema: JSON schema, as pydantic makes it: types, enum, const, anyOf, allOf, $ref, formats, arrays, objects.
        wanted: Further words for the search, see :func:`wanted_words`.

    Returns:
        A JSON value, always valid for types, enums and formats. A number is 0 and a text says that nothing was given
        if there is nothing to take it from; an optional value is None then.
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
        found = self._find_number(wanted) or 0
        if schema.get("type") == "integer":
            found = round(found)
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is not None and found < low:
            return low  # type: ignore[no-any-return]
        return high if high is not None and found > high else found

    def _find_number(self, wanted: str) -> int | float | None:
        """Give what the question asks to compute, else the number nearest to it, rather not one of its own."""
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
            values: list[Any] = self._number_list(kind, wanted)
        elif kind == "string" and "format" not in items:
            values = self._text_list(wanted)
        else:
            has_value = depth < _MAX_DEPTH and bool(self.source.passages.sentences)
            values = [self.value(items, wanted, depth + 1)] if has_value else []
        missing = max(0, schema.get("minItems", 0) - len(values))
        values += [self.value(items, wanted, depth + 1) for _ in range(missing)]
        return values[: schema.get("maxItems")]

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
        """Give the ``key: value`` lines of the text as a map, where their values can be made valid."""
        item = schema.get("additionalProperties", True)
        item = {} if isinstance(item, bool) else self._resolved(item)
        found: dict[str, Any] = {}
        if depth >= _MAX_DEPTH or self.root.get(OTHER_KEYS):
            return found
        for match in _KEY_VALUE.finditer(self.source.text):
            part = _Answering(SourceText(self.source.question, match[2].strip()), self.root)
            found.setdefault(match[1].strip(), part.value(item, "", depth + 1))
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
        return self.text(wanted)[: schema.get("maxLength")]

    def text(self, wanted: str) -> str:
        """Give the sentence nearest to the question, or the plain statement that there is none."""
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
    """Give the option whose words stand nearest: in the nearest sentence, the question, then the rest of the text."""
    ranked = source.ranked(wanted)
    nearest = set(words(ranked[0] if ranked else ""))
    question = set(words(source.question))
    anywhere = set(words(source.text))

    def score(option: Any) -> float:
        parts = words(str(option).replace("_", " ")) or [str(option).lower()]
        points = [4 * (part in nearest) + 2 * (part in question) + (part in anywhere) for part in parts]
        return sum(points) / len(points)

    return max(options, key=score)  # the first of equally near ones


def conform(value: Any, schema: Schema, source: SourceText) -> Any:
    """Give a value that was computed elsewhere in the type of a schema.

    Args:
        value: A JSON value, such as what a program submitted.
        schema: As for :func:`answer`.
        source: Gives the question; its text is not looked at.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    kind = schema.get("type")
    if kind == "string" and "format" not in schema:
        return text
    if value in schema.get("enum", ()):
        return value
    if kind == "boolean" and (isinstance(value, bool) or text.lower() in ("true", "false")):
        return text.lower() == "true"
    if kind == "array" and isinstance(value, list):
        return [conform(item, schema.get("items", {}), source) for item in value]
    if kind == "number" and type(value) in (int, float):
        return value
    if kind == "integer" and type(value) is int:
        return value
    if kind == "object" and isinstance(value, dict) and set(schema.get("required", ())) <= value.keys():
        return value
    return answer(SourceText("", text), schema, "")
