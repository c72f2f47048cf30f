"""The patches choose and call the same methods of callbacks as DSPy."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.utils import callback


def _plain(self: object, a: int, b: int = 2) -> None: ...


def _named(self: object, a: int, *, b: int, c: int = 3) -> None: ...


def _any(self: object, *args: int, **kwargs: int) -> None: ...


@functools.wraps(_plain)
def _wrapping(self: object, *args: int, **kwargs: int) -> None: ...


@pytest.mark.parametrize("function", [_plain, _named, _any, _wrapping])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, 2), {}), ((1, 2, 3), {}), ((1,), {"b": 4}), ((), {"a": 1}), ((), {"b": 1, "z": 2})],
)
def test_callbacks_get_arguments_by_name_as_python_binds_them(
    function: Callable[..., None], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    try:
        expected = inspect.getcallargs(function, "self", *args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            callback.inspect.getcallargs(function, "self", *args, **kwargs)
    else:
        for _ in range(2):
            assert callback.inspect.getcallargs(function, "self", *args, **kwargs) == expected


class Deciding(dspy.Module):  # type: ignore[misc]
    """A module that says whether DSPy should treat it as a model."""

    def __init__(self, *, like_a_model: bool) -> None:
        super().__init__()
        self.supports_decision_requests = like_a_model


class OtherCallback(callback.BaseCallback):  # type: ignore[misc]
    """A callback whose methods differ from those of other callbacks."""


def _text_length(text: str) -> int:
    return len(text)


@pytest.mark.parametrize(
    ("instance", "function"),
    [
        (dspy.LM("openai/any", api_key="none"), dspy.LM.__call__),
        (dspy.Predict("a -> b"), dspy.Predict.__call__),
        (dspy.ChainOfThought("a -> b"), dspy.Module.acall),
        (dspy.ChatAdapter(), dspy.ChatAdapter.format),
        (dspy.JSONAdapter(), dspy.JSONAdapter.parse),
        (dspy.Tool(_text_length), dspy.Tool.__call__),
        (dspy.Evaluate(devset=[]), dspy.Evaluate.__call__),
        (dspy.LabeledFewShot(), dspy.LabeledFewShot.compile),
        (Deciding(like_a_model=True), dspy.Module.__call__),
        (Deciding(like_a_model=False), dspy.Module.__call__),
        (dspy.PythonInterpreter(), dspy.PythonInterpreter.execute),
        (dspy.PythonInterpreter(), dspy.PythonInterpreter.shutdown),
    ],
)
def test_the_callback_for_an_object_is_the_one_that_dspy_chooses(instance: Any, function: Any) -> None:
    other = OtherCallback()
    for _ in range(2):
        for choose in (callback._get_on_start_handler, callback._get_on_end_handler):
            assert choose.__wrapped__ is not choose
            assert choose(other, instance, function) == choose.__wrapped__(other, instance, function)


def test_a_method_that_no_callback_has_is_an_error_as_before() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="Unsupported adapter method"):
            callback._get_on_start_handler(
                OtherCallback(), dspy.ChatAdapter(), dspy.ChatAdapter.format_field_description
            )
