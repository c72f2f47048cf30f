"""The cached system message and fields of a signature equal what DSPy would build again."""

from __future__ import annotations

import gc
import weakref
from typing import Literal

import dspy
import pytest


class Scored(dspy.Signature):  # type: ignore[misc]
    """Answer."""

    question: str = dspy.InputField(desc="what is asked")
    level: Literal["low", "high"] = dspy.InputField()
    answer: str = dspy.OutputField(min_length=1)
    score: float = dspy.OutputField()


ADAPTERS = [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter]


def anew(adapter: dspy.Adapter, signature: type[dspy.Signature]) -> str:
    """Build a system message as DSPy does."""
    parts = adapter.format_field_description, adapter.format_field_structure, adapter.format_task_description
    return "\n".join(part(signature) for part in parts)


@pytest.mark.parametrize("adapter_class", ADAPTERS)
def test_the_system_message_of_a_signature_is_the_same_each_time(adapter_class: type[dspy.Adapter]) -> None:
    for _ in range(2):
        adapter = adapter_class()
        message = adapter.format_system_message(Scored)
        assert message == anew(adapter, Scored)
    assert message is adapter.format_system_message(Scored)
    assert len({adapter().format_system_message(Scored) for adapter in ADAPTERS}) == len(ADAPTERS)


def test_a_signature_that_is_changed_in_place_gets_a_new_message() -> None:
    signature = dspy.Signature("question -> answer", "Answer at once.")
    adapter = dspy.ChatAdapter()
    assert "Answer at once." in adapter.format_system_message(signature)
    signature.instructions = "Answer slowly."
    assert "Answer slowly." in adapter.format_system_message(signature)
    signature.fields["question"].json_schema_extra["desc"] = "what is wanted"
    assert "what is wanted" in adapter.format_system_message(signature)


def test_types_and_adapters_with_varying_messages_are_not_cached() -> None:
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


def test_the_cached_message_is_freed_with_its_signature() -> None:
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
