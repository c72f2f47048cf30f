"""Keep a value within the bounds of its JSON schema: the nearest number, a text or a list of the right length."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final

from erlport_bridge.programs.models.embedded.prompt_reading import Schema

_FILLING: Final = "."
# Distinct values that are tried for one element of a set.
_MAX_TRIES: Final = 10_000


def number(value: float, schema: Schema) -> int | float:
    """Return the number nearest to ``value`` that a schema of an integer or a number allows."""
    is_integer = schema.get("type") == "integer"
    step = _fraction(schema["multipleOf"]) if schema.get("multipleOf") else Fraction(1) if is_integer else None
    if is_integer and step is not None and step.denominator != 1:
        step = Fraction(step.numerator)
    low, is_low_open = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, is_high_open = _bound(schema, "maximum", "exclusiveMaximum", min)
    if not math.isfinite(value):
        value = 0
    found = _fraction(value)
    if step is not None:
        least = None if low is None else math.floor(low / step) + 1 if is_low_open else math.ceil(low / step)
        most = None if high is None else math.ceil(high / step) - 1 if is_high_open else math.floor(high / step)
        multiple = round(found / step)
        multiple = multiple if most is None else min(multiple, most)
        found = step * (multiple if least is None else max(multiple, least))
    elif low is not None and (found < low or (is_low_open and found == low)):
        found = low if not is_low_open else low + 1 if high is None or high > low + 1 else (low + high) / 2
    elif high is not None and (found > high or (is_high_open and found == high)):
        found = high if not is_high_open else high - 1 if low is None or low < high - 1 else (low + high) / 2
    if is_integer:
        return int(found)
    return value if found == _fraction(value) else float(found)


def text(value: str, schema: Schema, source: str) -> str:
    """Return a text of the length that a schema allows; where it has a pattern, the part of ``source`` that matches."""
    pattern = schema.get("pattern")
    if pattern is not None:
        value = _matching(value, pattern, source)
    value = value[: schema.get("maxLength")]
    return value.ljust(schema.get("minLength", 0), _FILLING)


def elements(values: list[Any], schema: Schema, make: Callable[[], Any], others: Iterator[Any]) -> list[Any]:
    """Return a list of as many elements as a schema allows, each once where it wants that.

    Args:
        values: The elements.
        schema: The schema of the list.
        make: Gives one more element.
        others: Further elements, each another one, where ``make`` gives one that is there already.
    """
    is_set = bool(schema.get("uniqueItems"))
    found: list[Any] = []
    for value in values:
        if not is_set or value not in found:
            found.append(value)
    for _ in range(_MAX_TRIES):
        if len(found) >= schema.get("minItems", 0):
            break
        value = make() if not is_set or not found else next(others, None)
        if value is None and is_set:
            break
        if not is_set or value not in found:
            found.append(value)
    return found[: schema.get("maxItems")]


def different(schema: Schema) -> Iterator[Any]:
    """Yield values of a schema, each another one, as far as that is simple."""
    kind = schema.get("type")
    if "enum" in schema:
        yield from schema["enum"]
    elif kind == "boolean":
        yield from (False, True)
    elif kind in ("integer", "number"):
        step = schema.get("multipleOf") or 1
        first = number(0, schema)
        for count in range(_MAX_TRIES):
            for value in (first + count * step, first - count * step):
                if number(value, schema) == value:
                    yield value
    elif kind == "string" and "format" not in schema and "pattern" not in schema:
        for count in range(1, _MAX_TRIES):
            written = str(count)
            if len(written) > schema.get("maxLength", len(written)):
                return
            yield written.rjust(schema.get("minLength", 0), _FILLING)


def _matching(value: str, pattern: str, source: str) -> str:
    try:
        if re.search(pattern, value):
            return value
        match = re.search(pattern.removeprefix("^").removesuffix("$"), f"{value}\n{source}")
    except re.error:  # the patterns of JSON schema are not quite Python's
        return value
    return match[0] if match else value


def _bound(
    schema: Schema, closed: str, opened: str, tighter: Callable[[Fraction, Fraction], Fraction]
) -> tuple[Fraction | None, bool]:
    one, other = (None if schema.get(name) is None else _fraction(schema[name]) for name in (closed, opened))
    if one is None or other is None:
        return (other, True) if one is None else (one, False)
    return (other, True) if tighter(one, other) == other else (one, False)


def _fraction(value: float) -> Fraction:
    # As it is written: 0.1 is a tenth.
    return Fraction(str(value))
