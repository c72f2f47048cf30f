"""Earlier turns of a conversation show a model what they hold, and nothing else."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from erlport_bridge import dspy_patches  # noqa: F401 - installs the patches

SIGNATURE = dspy.Signature("history: dspy.History, question -> reasoning: str, answer: str")
ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}


def worded(adapter: dspy.Adapter, *turns: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the messages of earlier turns."""
    inputs = {"history": dspy.History(messages=list(turns)), "question": "And now?"}
    messages: list[dict[str, Any]] = adapter.format_conversation_history(SIGNATURE, "history", inputs)
    assert inputs == {"question": "And now?"}
    return messages


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> dspy.Adapter:
    """Give each adapter that words turns one by one."""
    return ADAPTERS[request.param]()


def test_an_output_that_a_turn_does_not_hold_has_no_section(adapter: dspy.Adapter) -> None:
    """It was a section with ``None``, which a model took for its own earlier reasoning."""
    asked, answered = worded(adapter, {"question": "Why?", "answer": "So."})
    assert (asked["role"], answered["role"]) == ("user", "assistant")
    assert "So." in answered["content"]
    assert "reasoning" not in answered["content"]
    assert "None" not in answered["content"]
    # The question is as it was when the turn was new: providers cache what begins the same.
    assert asked == worded(adapter, {"question": "Why?", "reasoning": "Since.", "answer": "So."})[0]


def test_an_output_that_is_none_is_shown(adapter: dspy.Adapter) -> None:
    (_, answered) = worded(adapter, {"question": "Why?", "reasoning": None, "answer": "So."})
    assert "reasoning" in answered["content"]


def test_a_turn_without_an_answer_has_no_message_of_the_model(adapter: dspy.Adapter) -> None:
    assert [message["role"] for message in worded(adapter, {"question": "Why?"})] == ["user"]


def test_a_turn_that_holds_everything_is_worded_as_by_dspy(adapter: dspy.Adapter) -> None:
    turn = {"question": "Why?", "reasoning": "Since.", "answer": "So."}
    (_, answered) = worded(adapter, turn)
    assert answered["content"] == adapter.format_assistant_message_content(SIGNATURE, turn)


def test_a_step_of_an_agent_sees_the_answer_of_the_whole_agent(adapter: dspy.Adapter) -> None:
    """The step has other outputs; its history showed questions with ``None`` for its own outputs, and no answer."""
    step = dspy.Signature("history: dspy.History, question -> next_thought: str, next_tool_name: str")
    inputs = {"history": dspy.History(messages=[{"question": "Why?", "answer": "So."}])}
    (_, answered) = adapter.format_conversation_history(step, "history", inputs)
    assert "So." in answered["content"]
    assert "next_thought" not in answered["content"]


def test_calls_of_tools_stay_with_their_turn() -> None:
    signature = dspy.Signature("history: dspy.History, question -> thought: str, tool_calls: dspy.ToolCalls")
    calls = dspy.ToolCalls.from_dict_list([{"name": "search", "args": {"q": "x"}}])
    for adapter in (dspy.ChatAdapter(), dspy.ChatAdapter(use_native_function_calling=True)):
        inputs = {"history": dspy.History(messages=[{"question": "Why?", "tool_calls": calls}])}
        text = str(adapter.format_conversation_history(signature, "history", inputs))
        assert "thought ##" not in text.replace("starting with the field `[[ ## thought ## ]]`", "")
        assert "None" not in text.replace("'content': None", "")
