"""A cached adapter reads and writes what a new one would."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import pydantic
import pytest
from dspy.adapters import utils


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "7"),
        (list[int], ["1", 2]),
        (Literal["a", "b"], "b"),
        (datetime.date, "2024-02-29"),
        (int | None, None),
        (dict[str, list[float]], {"a": [1, 2.5]}),
    ],
)
def test_values_are_read_as_by_a_new_adapter(annotation: Any, value: Any) -> None:
    for _ in range(2):
        assert utils.parse_value(value, annotation) == pydantic.TypeAdapter(annotation).validate_python(value)


def test_types_that_are_equal_and_read_differently_are_kept_apart() -> None:
    assert (int | bool) == (bool | int)
    annotation: Any
    for annotation in (int | bool, bool | int, int | bool):
        assert utils.TypeAdapter(annotation).json_schema() == pydantic.TypeAdapter(annotation).json_schema()


def test_an_adapter_is_made_once_for_a_type() -> None:
    assert utils.TypeAdapter(list[int]) is utils.TypeAdapter(list[int])
    assert utils.TypeAdapter(str) is utils.TypeAdapter(str)


def test_type_that_cannot_be_hashed_has_an_adapter_all_the_same() -> None:
    unhashable = Annotated[str, {"a": []}]
    assert utils.TypeAdapter(unhashable).validate_python("a") == "a"
