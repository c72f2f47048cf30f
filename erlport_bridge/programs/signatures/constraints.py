"""Constraints on a field's value beside its type: bounds of a number or of a length, and a pattern.

DSPy writes constraints into the prompt and does not check them. Here inputs and outputs are checked against them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, TypeAlias, get_origin

import annotated_types
import pydantic
import pydantic_core

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures import hints
from erlport_bridge.term import shown

#: Names and values of constraints, in the order in which the caller gave them; hashable.
Constraints: TypeAlias = tuple[tuple[str, Any], ...]

_OF_NUMBERS: Final = ("gt", "ge", "lt", "le", "multiple_of")
_OF_LENGTHS: Final = ("min_length", "max_length")
#: The names of all constraints.
NAMES: Final = (*_OF_NUMBERS, *_OF_LENGTHS, "pattern")
_AS_METADATA: Final[Mapping[str, Callable[[Any], Any]]] = {
    "gt": annotated_types.Gt,
    "ge": annotated_types.Ge,
    "lt": annotated_types.Lt,
    "le": annotated_types.Le,
    "multiple_of": annotated_types.MultipleOf,
    "min_length": annotated_types.MinLen,
    "max_length": annotated_types.MaxLen,
    "pattern": lambda pattern: pydantic.StringConstraints(pattern=pattern),
}
_NUMBERS: Final = (int, float, Decimal)
_WITH_LENGTH: Final = (str, list, set, dict, tuple)


def allowed(annotation: Any) -> tuple[str, ...]:
    """Return the names of the constraints that a type takes."""
    if annotation in _NUMBERS:
        return _OF_NUMBERS
    if annotation is str:
        return (*_OF_LENGTHS, "pattern")
    return _OF_LENGTHS if (get_origin(annotation) or annotation) in _WITH_LENGTH else ()


def problem(annotation: Any, name: str, value: object) -> str | None:
    """Return what is wrong with a constraint of a type, or ``None`` if the constraint is valid."""
    takes = allowed(annotation)
    if name not in takes:
        return takes_no(name, takes)
    if name == "pattern":
        return _pattern_problem(value) if isinstance(value, str) else f"takes text as {name}, not {shown(value)}"
    if name in _OF_LENGTHS:
        return None if type(value) is int and value >= 0 else f"takes a length as {name}, not {shown(value)}"
    if isinstance(value, bool) or not isinstance(value, int | float) or (name == "multiple_of" and value <= 0):
        return f"takes a number as {name}, not {shown(value)}"
    return None


def takes_no(name: str, takes: Collection[str]) -> str:
    """Return the words about a constraint that a type does not take, which takes others."""
    known = tuple(dict.fromkeys(takes))
    return f"takes no {name}{hints.of_setting(name, known)}" + (f"; it takes {', '.join(known)}" if known else "")


def leaves_no_value(annotation: Any, constraints: Constraints) -> bool:
    """Return whether no value of the type fulfils all of its constraints, such as ``ge=5, le=1``."""
    given = dict(constraints)
    if given.get("min_length", 0) > given.get("max_length", math.inf):
        return True
    lowest = max(given.get("ge", -math.inf), given.get("gt", -math.inf))
    highest = min(given.get("le", math.inf), given.get("lt", math.inf))
    if lowest > highest or (lowest == highest and (given.get("gt") == lowest or given.get("lt") == highest)):
        return True
    if annotation is not int or math.inf in (-lowest, highest):
        return False
    first = math.floor(lowest) + 1 if given.get("gt") == lowest else math.ceil(lowest)
    last = math.ceil(highest) - 1 if given.get("lt") == highest else math.floor(highest)
    return bool(first > last)


def constrained(annotation: Any, constraints: Constraints) -> Any:
    """Return a type with its constraints as one annotation; equal types with equal constraints are equal."""
    # Not by `pydantic.Field`: no two of its instances are equal.
    metadata = [_AS_METADATA[name](value) for name, value in constraints]
    if not metadata:
        return annotation
    parts = (annotation, *metadata)  # a variable, since mypy reads a star inside brackets as Python 3.11 syntax
    return Annotated[parts]


def with_pattern_in_prompt(field: Any, constraints: Constraints) -> Any:
    """Add the pattern, for which DSPy has no words, to the field's prompt text; modifies and returns the field."""
    pattern = dict(constraints).get("pattern")
    if pattern is not None:
        extra = field.json_schema_extra
        words = f"matching the regular expression: {pattern}"
        extra["constraints"] = f"{extra['constraints']}, {words}" if "constraints" in extra else words
    return field


def check(annotation: Any, constraints: Constraints, value: object, path: str, kind: str) -> None:
    """Check a value against the constraints of its type; ``None`` passes.

    Args:
        annotation: The type.
        constraints: The constraints of the type.
        value: The value, already of the type.
        path: The path of the value, for errors.
        kind: The kind of the error.

    Raises:
        OperationError: Of kind ``kind``, with the path: ``value`` breaks a constraint.
    """
    if constraints and value is not None:
        validated(_adapter(annotation, constraints).validate_python, value, path, kind)


def validated(validate: Callable[[Any], Any], value: object, path: str, kind: str) -> Any:
    """Return the result of Pydantic's ``validate``; raise a validation error as an error of this kind."""
    try:
        return validate(value)
    except pydantic.ValidationError as error:
        wrong, place, got = first_problem(error)
        raise OperationError(kind, f"{wrong} at {path}{place}, got {shown(got)}", path=path + place) from None


def first_problem(error: pydantic.ValidationError) -> tuple[str, str, Any]:
    """Return what Pydantic expected, as the beginning of a sentence, the path below the value, and what came."""
    first = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return _sentence(first["msg"]), place, first["input"]


def _sentence(message: str) -> str:
    """Return Pydantic's message in our words: ``Input should be less than 3`` -> ``expected a value less than 3``."""
    for start, words in (("Input should be ", "expected a value "), ("String should ", "expected text that should ")):
        if message.startswith(start):
            return words + message.removeprefix(start)
    return message[:1].lower() + message[1:]


@functools.lru_cache(maxsize=512)
def _adapter(annotation: Any, constraints: Constraints) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(constrained(annotation, constraints))


def _pattern_problem(pattern: str) -> str | None:
    try:
        # Pydantic's regular expressions run in linear time in the length of the text.
        pydantic.TypeAdapter(Annotated[str, pydantic.Field(pattern=pattern)])
    except (pydantic.PydanticUserError, pydantic_core.SchemaError):
        return f"takes a regular expression as pattern, not {shown(pattern)}"
    return None
