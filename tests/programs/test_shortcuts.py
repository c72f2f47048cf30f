"""What is made once is what would be made anew."""

from __future__ import annotations

import datetime
import gc
import weakref
from typing import Annotated, Any, Literal

import dspy
import pydantic
import pytest
from dspy.adapters import utils
from dspy.clients import capabilities, costs, model_metadata

from erlport_bridge.programs import shortcuts


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
