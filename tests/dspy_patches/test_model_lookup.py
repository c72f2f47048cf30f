"""The cached metadata of a model equals what DSPy would look up again."""

from __future__ import annotations

from typing import Any

import pytest
from dspy.clients import capabilities, costs, model_metadata


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "vllm", "no-such-provider"])
@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-3-5-sonnet-latest", "gemini-2.0-flash", "my-own", "x" * 300])
@pytest.mark.parametrize("namespaces", [None, (), ("openai",)])
def test_cached_metadata_of_a_model_is_what_dspy_would_find(
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


def test_metadata_of_models_may_be_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"litellm_provider": "openai", "supports_reasoning": True}
    assert capabilities.model_info("openai", "loaded-anew") == {}
    monkeypatch.setattr(model_metadata, "_data", {"openai/loaded-anew": entry})
    assert capabilities.model_info("openai", "loaded-anew") == entry
