"""The names of OpenTelemetry's semantic conventions for spans of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.tracing.conventions import Described, described

SPANS = json.loads((Path(__file__).parents[2] / "conformance" / "spans.json").read_text(encoding="utf-8"))
ANSWERED = {
    "provider": "openai",
    "model": "openai/gpt-4o-mini",
    "attempts": 2,
    "cache_hit": False,
    "input_tokens": 9,
    "output_tokens": 3,
    "total_tokens": 12,
    "cached_tokens": 4,
    "reasoning_tokens": 2,
    "cost": 0.5,
    "finish_reason": "stop",
    "first_token_us": 250_000,
    "retries": [{"kind": "server", "message": "busy", "after_us": 70}],
    "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}],
    "reply": ["So."],
    "stage": "search",
}


def test_request_to_a_model_is_a_chat_of_a_client() -> None:
    found = described("model", "openai/gpt-4o-mini", ANSWERED, has_texts=False)
    assert (found.name, found.kind) == ("chat gpt-4o-mini", "CLIENT")
    assert found.attributes == {
        "dspex.kind": "model",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "gen_ai.usage.cost": 0.5,
        "dspex.attempts": 2,
        "dspex.cache_hit": False,
        "dspex.total_tokens": 12,
        "dspex.stage": "search",
    }
    # Without its message, which may quote the prompt.
    assert found.events == [("dspex.retry", 70, {"error.type": "server"})]


def test_prompt_and_answer_are_there_if_they_are_wanted() -> None:
    found = described("model", "openai/gpt-4o-mini", ANSWERED, has_texts=True).attributes
    asked, said = (json.loads(str(found[f"gen_ai.{side}.messages"])) for side in ("input", "output"))
    assert asked[1] == {"role": "user", "parts": [{"type": "text", "content": "Why?"}]}
    assert said == [{"role": "assistant", "parts": [{"type": "text", "content": "So."}], "finish_reason": "stop"}]


@pytest.mark.parametrize("row", SPANS, ids=lambda row: f"{row['span']['kind']} {row['span']['name']}")
def test_both_languages_name_spans_alike(row: dict[str, Any]) -> None:
    span = row["span"]
    found = described(span["kind"], span["name"], span["attributes"], has_texts=False)
    events = [(name, after_us, attributes) for name, after_us, attributes in row["events"]]
    assert found == Described(row["name"], row["kind"], row["attributes"], events)


def test_arguments_and_result_of_a_tool_are_there_if_they_are_wanted() -> None:
    given = {"arguments": '{"article": "nut"}', "result": "7"}
    without, with_texts = (described("tool", "stock", given, has_texts=wanted) for wanted in (False, True))
    named = {
        "dspex.kind": "tool",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "stock",
        "gen_ai.tool.type": "function",
    }
    assert (without.name, without.attributes) == ("execute_tool stock", named)
    texts = {"gen_ai.tool.call.arguments": given["arguments"], "gen_ai.tool.call.result": "7"}
    assert with_texts.attributes == {**named, **texts}
