"""The embedded model keeps to the types, bounds, lengths and enums that it is given, in every form of a prompt."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from erlport_bridge import dspy_patches  # noqa: F401 - installs the patches
from erlport_bridge.programs.execution.output_checks import check_outputs
from erlport_bridge.programs.models.embedded import bounds, embedded_model
from erlport_bridge.programs.signatures.spec import build_signature, parse_signature
from erlport_bridge.programs.values.inputs import convert
from erlport_bridge.programs.values.results import plain

ADAPTERS = {
    "chat": lambda: dspy.ChatAdapter(use_json_adapter_fallback=False),
    "json": dspy.JSONAdapter,
}
TEXTS = [
    "hello",
    "The ticket has priority 0, was seen 17 times and costs -2.75 EUR. It is urgent.",
    "a: 1\nb: 900\nc: low",
    "",
]
TYPES = [
    "int(ge=1, le=5)",
    "int(gt=0)",
    "int(lt=-3)",
    "int(gt=1, lt=3)",
    "int(multiple_of=5, ge=3)",
    "int(ge=1, le=5) | None",
    "float(gt=0.5, lt=0.6)",
    "float(ge=0.1, le=0.9)",
    "float(gt=0, le=1, multiple_of=0.25)",
    "float(lt=-1000)",
    "Decimal(ge=1, le=5)",
    "str(min_length=40)",
    "str(min_length=3, max_length=8)",
    "str(max_length=1)",
    "str(max_length=5) | None",
    "list[int](min_length=3)",
    "list[int](max_length=1)",
    "list[int(ge=1, le=5)](min_length=2, max_length=3)",
    "list[str(max_length=4)](min_length=2, max_length=2)",
    "list[float(gt=0, lt=1)](min_length=1)",
    "set[int](min_length=3)",
    "set[int(ge=1, le=5)](min_length=5)",
    "set[str](min_length=2)",
    'set[Literal["a", "b", "c"]](min_length=2)',
    "dict[str, int(ge=1)](min_length=2, max_length=2)",
    "dict[str, str(max_length=3)](max_length=1)",
    'Literal["low", "high"]',
    "Literal[1, 2]",
    'list[Literal["x", "y"]](min_length=3)',
    "bool",
    "{n: int(ge=1, le=5), tags: list[str](min_length=2)}",
    "list[{n: int(ge=10), s: str(min_length=2, max_length=2)}](min_length=2)",
    "tuple[int(ge=1), str(max_length=2)]",
]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("type_text", TYPES)
def test_an_answer_keeps_to_its_type_and_its_constraints(type_text: str, adapter: str) -> None:
    """A priority of 0 was given where 1 to 5 was asked for."""
    spec = parse_signature(f"text -> v: {type_text}, other: {type_text}")
    with dspy.context(lm=embedded_model(), adapter=ADAPTERS[adapter](), disable_history=True, trace=[]):
        for text in TEXTS:
            prediction = dspy.Predict(build_signature(spec))(text=text)
            check_outputs(spec, prediction)
            for field in spec.outputs:
                convert(field.annotation, plain(prediction[field.name]), "v")


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_of_the_text_that_is_allowed_is_the_answer(text: str) -> None:
    spec = parse_signature("text -> seen: int(ge=10, le=20, desc='how often it was seen')")
    with dspy.context(lm=embedded_model(), disable_history=True, trace=[]):
        seen = dspy.Predict(build_signature(spec))(text=text).seen
    assert 10 <= seen <= 20


@pytest.mark.parametrize(
    ("value", "schema", "found"),
    [
        (0, {"type": "integer", "minimum": 1}, 1),
        (9, {"type": "integer", "maximum": 5}, 5),
        (3, {"type": "integer", "minimum": 1, "maximum": 5}, 3),
        (2.6, {"type": "integer"}, 3),
        (0, {"type": "integer", "exclusiveMinimum": 0}, 1),
        (7, {"type": "integer", "multipleOf": 5}, 5),
        (0, {"type": "integer", "minimum": 1, "multipleOf": 5}, 5),
        (0.5, {"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.7}, 0.6),
        (0.3, {"type": "number", "multipleOf": 0.1}, 0.3),
        (2**70, {"type": "integer"}, 2**70),
        (float("inf"), {"type": "number", "minimum": 3}, 3),
        (1.5, {"type": "number"}, 1.5),
    ],
)
def test_the_nearest_number_that_is_allowed(value: Any, schema: dict[str, Any], found: Any) -> None:
    assert bounds.number(value, schema) == pytest.approx(found)


def test_a_pattern_is_looked_for_in_the_text() -> None:
    schema = {"type": "string", "pattern": r"^[A-Z]{2}-\d+$"}
    assert bounds.text("none here", schema, "The order is AB-17, of May.") == "AB-17"
    assert bounds.text("AB-3", schema, "") == "AB-3"
    assert bounds.text("none", {"type": "string", "pattern": "("}, "") == "none"
