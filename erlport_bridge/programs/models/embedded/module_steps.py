"""Answer the requests of ReAct, ProgramOfThought and MultiChainComparison, which need more than a value from a text.

The function of a step takes its prompt and the source to answer from, and returns the values of output fields.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge.programs.models.embedded.field_answers import (
    SourceText,
    answer,
    conform,
    nearest_option,
    quoted,
    wanted_words,
)
from erlport_bridge.programs.models.embedded.prompt_reading import (
    OfferedTool,
    Prompt,
    Schema,
    numbered_sections,
    offered_tools,
)
from erlport_bridge.programs.text import find_expression, numbers, words

_FINISH: Final = "finish"
_EXPRESSION_NAMES: Final = frozenset(("expression", "formula", "calculation", "expr"))
_QUESTION_NAMES: Final = frozenset(("question", "query", "q", "search", "prompt", "request"))
_TEXT_NAMES: Final = frozenset(("text", "document", "context", "passage", "content", "passages", "documents"))
_PROPER_NOUN: Final = re.compile(r"(?<=[a-z,] )[A-Z][\w'-]*(?: [A-Z][\w'-]*)*")
_QUOTED: Final = re.compile(r"[\"'“‘«]([^\"'”’»]{1,200})[\"'”’»]")

_SUBMITTED_FIELDS: Final = re.compile(r"value mapping for the field\(s\): (.*)\.")
_SUBMITTED_KEY: Final = re.compile(r"[\"'](\w+)[\"']:")
_ATTEMPT: Final = re.compile(r"my prediction is (.*?)»?$", re.DOTALL)
# Marks at which ProgramOfThought cuts generated code, and their escapes in string literals.
_CUT_MARKS: Final = (("---", r"\x2d\x2d\x2d"), ("```", r"\x60\x60\x60"))


# --- ReAct


def next_tool_call(prompt: Prompt, source: SourceText) -> dict[str, Any]:
    """Return a call of the tool that fits the question best and was not called yet, or of ``finish``."""
    trajectory = prompt.value("trajectory") or ""
    called = numbered_sections(trajectory, "tool_name")
    name_field = next(field for field in prompt.outputs if field.name == "next_tool_name")
    tools = offered_tools(prompt.instructions, name_field.schema.get("enum", ()))
    asked = set(words(source.question))
    best: tuple[float, OfferedTool, dict[str, Any]] | None = None
    for tool in tools:
        arguments = None if tool.name == _FINISH or tool.name in called else _arguments(tool, prompt, source)
        if arguments is None:
            continue
        fit = _fit(tool, arguments, asked)
        # After an observation, only a tool that shares a word with the question is worth another request.
        needed = 1.0 if called or not arguments else 0.0
        if fit >= needed and (best is None or fit > best[0]):
            best = (fit, tool, arguments)
    if best is None:
        thought = "The observations are enough to answer." if called else "No tool fits the question."
        return {"next_thought": thought, "next_tool_name": _FINISH, "next_tool_args": {}}
    _, tool, arguments = best
    thought = f"The tool {tool.name} fits the question {quoted(source.question)} best."
    return {"next_thought": thought, "next_tool_name": tool.name, "next_tool_args": arguments}


def _fit(tool: OfferedTool, arguments: Mapping[str, Any], asked: set[str]) -> float:
    described = words(f"{tool.name.replace('_', ' ')} {tool.description} {' '.join(tool.arguments)}".replace("_", " "))
    computes = 2.0 * any(name in _EXPRESSION_NAMES for name in arguments)
    return computes + len(asked.intersection(described))


def _arguments(tool: OfferedTool, prompt: Prompt, source: SourceText) -> dict[str, Any] | None:
    """Return the arguments of a call, or ``None`` if question and inputs have no value for a required argument."""
    free_numbers = numbers(source.question)
    arguments: dict[str, Any] = {}
    for name, schema in tool.arguments.items():
        value = _argument(name, schema, prompt, source, free_numbers)
        if value is not None:
            arguments[name] = value
        elif "default" not in schema:
            return None
    return arguments


def _argument(name: str, schema: Schema, prompt: Prompt, source: SourceText, free_numbers: list[int | float]) -> Any:
    given = prompt.value(name)
    if given is not None:
        return conform(given, schema, source)
    if name in _EXPRESSION_NAMES:
        return find_expression(source.question)
    if name in _QUESTION_NAMES:
        return source.question or None
    if name in _TEXT_NAMES:
        return source.text or None
    if "default" in schema:
        return None
    if "enum" in schema:
        return nearest_option(source, list(schema["enum"]), "")
    kind = schema.get("type", "string")
    if kind in ("integer", "number"):
        number = free_numbers.pop(0) if free_numbers else None
        return round(number) if number is not None and kind == "integer" else number
    if kind == "array":
        return free_numbers if schema.get("items", {}).get("type") in ("integer", "number") and free_numbers else None
    if kind == "string" and "format" not in schema:
        named = _QUOTED.search(source.question) or _PROPER_NOUN.search(source.question)
        return named[named.lastindex or 0] if named else source.question or None
    return answer(source, schema, wanted_words(name, schema.get("description", "")))


def observations(trajectory: str) -> str:
    """Return the observations of a trajectory as a text to answer from, without the observation of ``finish``."""
    names = numbered_sections(trajectory, "tool_name")
    observed = numbered_sections(trajectory, "observation")
    # A tool's text may contain headers. Then names and observations do not pair, and every observation counts.
    pairs = zip(names, observed, strict=True) if len(names) == len(observed) else ((None, text) for text in observed)
    return "\n".join(text for name, text in pairs if name != _FINISH)


# --- ProgramOfThought


def program(prompt: Prompt, source: SourceText) -> str:
    """Return Python code that computes the question's arithmetic, or submits the sentence nearest to the question."""
    previous = prompt.value("previous_code")
    listed = _SUBMITTED_FIELDS.search(prompt.instructions)
    if previous is not None:
        names = _SUBMITTED_KEY.findall(previous)
    else:
        names = re.findall(r"`(\w+)`", listed[1]) if listed else []
    names = list(dict.fromkeys(names)) or ["answer"]
    expression = find_expression(source.question)
    if expression is None or previous is not None:
        # The previous program failed, and would fail again; a literal cannot fail.
        return _submission(names, _literal(answer(source, {"type": "string"}, "")))
    return f"from math import ceil, floor, sqrt\n\nresult = {expression}\n{_submission(names, 'result')}"


def _submission(names: list[str], value: str) -> str:
    return f"SUBMIT({{{', '.join(f'{_literal(name)}: {value}' for name in names)}}})"


def _literal(text: str) -> str:
    literal = json.dumps(text)
    for mark, escaped in _CUT_MARKS:
        literal = literal.replace(mark, escaped)
    return literal


def submitted(code_output: str) -> dict[str, Any]:
    """Return the output of a program by field; a single value, submitted or printed, has the key ``""``."""
    try:
        output = json.loads(code_output)
    except ValueError:
        output = code_output
    if isinstance(output, dict) and set(output) == {"output"}:
        output = output["output"]
    return output if isinstance(output, dict) else {"": output}


# --- MultiChainComparison


def majority(prompt: Prompt, source: SourceText) -> dict[str, Any]:
    """Return the most frequent prediction of the attempts (the first of equals) for the last output field."""
    attempts = [value for field, value in prompt.inputs if field.name.startswith("reasoning_attempt_")]
    predictions = [match[1].strip() if (match := _ATTEMPT.search(attempt)) else attempt for attempt in attempts]
    counts = Counter(prediction.casefold() for prediction in predictions)
    chosen = max(predictions, key=lambda prediction: counts[prediction.casefold()])
    agreeing = [str(n) for n, text in enumerate(predictions, 1) if text.casefold() == chosen.casefold()]
    field = prompt.outputs[-1]
    return {
        "rationale": f"{len(agreeing)} of {len(predictions)} attempts ({', '.join(agreeing)}) say {quoted(chosen)}.",
        field.name: conform(chosen, field.schema, source),
    }


def computed_values(prompt: Prompt, source: SourceText) -> dict[str, Any]:
    """Return the output fields from the output of ProgramOfThought's program."""
    values = submitted(prompt.value("code_output") or "")
    source.reason = f"The program's output is {quoted(prompt.value('code_output') or '')}."
    return {
        field.name: conform(values.get(field.name, values.get("")), field.schema, source)
        for field in prompt.outputs
        if field.name in values or "" in values
    }
