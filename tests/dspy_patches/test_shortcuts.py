"""What is made once is what would be made anew."""

from __future__ import annotations

import datetime
import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Annotated, Any, Literal

import dspy
import pydantic
import pytest
from dspy.adapters import utils
from dspy.clients import capabilities, costs, model_metadata
from dspy.utils import callback

from erlport_bridge.dspy_patches import shortcuts


@pytest.fixture(autouse=True)
def installed() -> None:
    shortcuts.install()


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


class Scored(dspy.Signature):  # type: ignore[misc]
    """Answer."""

    question: str = dspy.InputField(desc="what is asked")
    level: Literal["low", "high"] = dspy.InputField()
    answer: str = dspy.OutputField(min_length=1)
    score: float = dspy.OutputField()


ADAPTERS = [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter]


def anew(adapter: dspy.Adapter, signature: type[dspy.Signature]) -> str:
    """Put a system message together as DSPy does."""
    parts = adapter.format_field_description, adapter.format_field_structure, adapter.format_task_description
    return "\n".join(part(signature) for part in parts)


@pytest.mark.parametrize("adapter_class", ADAPTERS)
def test_a_model_is_told_the_same_of_a_signature_each_time(adapter_class: type[dspy.Adapter]) -> None:
    for _ in range(2):
        adapter = adapter_class()
        message = adapter.format_system_message(Scored)
        assert message == anew(adapter, Scored)
    assert message is adapter.format_system_message(Scored)
    assert len({adapter().format_system_message(Scored) for adapter in ADAPTERS}) == len(ADAPTERS)


def test_a_signature_that_is_changed_in_place_is_told_anew() -> None:
    signature = dspy.Signature("question -> answer", "Answer at once.")
    adapter = dspy.ChatAdapter()
    assert "Answer at once." in adapter.format_system_message(signature)
    signature.instructions = "Answer slowly."
    assert "Answer slowly." in adapter.format_system_message(signature)
    signature.fields["question"].json_schema_extra["desc"] = "what is wanted"
    assert "what is wanted" in adapter.format_system_message(signature)


def test_types_and_adapters_that_may_say_something_else_each_time_are_asked_each_time() -> None:
    says = ["first", "second", "third", "fourth"]

    class Spoken(dspy.Type):  # type: ignore[misc]
        def format(self) -> str:
            return ""

        @classmethod
        def description(cls) -> str:
            return says[0]

    class Own(dspy.ChatAdapter):  # type: ignore[misc]
        def format_field_structure(self, signature: type[dspy.Signature]) -> str:
            return says[0]

    signature = dspy.Signature({"heard": (Spoken, dspy.InputField()), "answer": (str, dspy.OutputField())})
    for word in tuple(says):
        assert word in dspy.ChatAdapter().format_system_message(signature)
        assert word in Own().format_system_message(Scored)
        del says[0]


def test_what_is_told_of_a_signature_goes_with_it() -> None:
    signature = Scored.with_instructions("Answer and be gone.")
    dspy.ChatAdapter().format_system_message(signature)
    gone = weakref.ref(signature)
    del signature
    gc.collect()
    assert gone() is None


def test_fields_are_in_the_order_of_the_signature() -> None:
    assert list(Scored.input_fields) == ["question", "level"]
    assert list(Scored.output_fields) == ["answer", "score"]
    assert Scored.input_fields["question"] is Scored.model_fields["question"]


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "vllm", "no-such-provider"])
@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-3-5-sonnet-latest", "gemini-2.0-flash", "my-own", "x" * 300])
@pytest.mark.parametrize("namespaces", [None, (), ("openai",)])
def test_what_is_known_of_a_model_is_what_dspy_would_find(
    provider: str, model: str, namespaces: tuple[str, ...] | None
) -> None:
    for _ in range(2):
        for user in (capabilities, costs):
            found = user.model_info(provider, model, namespaces=namespaces)
            assert found == model_metadata.model_info(provider, model, namespaces=namespaces)


def test_a_model_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    look_up = model_metadata.model_info

    def counted(provider: str, model: str, **options: Any) -> Any:
        looked_up.append((provider, model))
        return look_up(provider, model, **options)

    monkeypatch.setattr(model_metadata, "model_info", counted)
    for _ in range(3):
        capabilities.model_info("openai", "looked-up-once")
        costs.model_info("openai", "looked-up-once")
    assert looked_up == [("openai", "looked-up-once")]


def test_what_is_known_of_models_may_be_loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"litellm_provider": "openai", "supports_reasoning": True}
    assert capabilities.model_info("openai", "loaded-anew") == {}
    monkeypatch.setattr(model_metadata, "_data", {"openai/loaded-anew": entry})
    assert capabilities.model_info("openai", "loaded-anew") == entry


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
def test_callbacks_are_told_arguments_by_name_as_python_finds_them(
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
    """Says of itself whether DSPy should treat it as a model."""

    def __init__(self, *, like_a_model: bool) -> None:
        super().__init__()
        self.supports_decision_requests = like_a_model


class Told(callback.BaseCallback):  # type: ignore[misc]
    """A callback whose methods can be told from those of others."""


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
    told = Told()
    for _ in range(2):
        for choose in (callback._get_on_start_handler, callback._get_on_end_handler):
            assert choose.__wrapped__ is not choose
            assert choose(told, instance, function) == choose.__wrapped__(told, instance, function)


def test_a_method_that_no_callback_has_is_an_error_as_before() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="Unsupported adapter method"):
            callback._get_on_start_handler(Told(), dspy.ChatAdapter(), dspy.ChatAdapter.format_field_description)
