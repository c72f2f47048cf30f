"""The usage of a prediction stands under the name that its model has."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_server import ModelServer
from tests.port_process import PortProcess


def model(server: ModelServer, provider: str, name: str = "answer") -> dict[str, Any]:
    return {"provider": provider, "model": name, "api_base": f"{server.url}/v1", "api_key": "key"}


@pytest.mark.parametrize("provider", ["openai", "anthropic", "ollama", "groq", "hosted_vllm", "openai_compatible"])
@pytest.mark.parametrize("is_fallback", [False, True])
def test_usage_is_under_the_name_of_the_model(
    shared_port: PortProcess, model_server: ModelServer, provider: str, is_fallback: bool
) -> None:
    """An address of one's own is asked as hosted_vllm, and usage was told under that name."""
    lm: Any = model(model_server, provider)
    lm = [model(model_server, "openai", "status-500"), lm] if is_fallback else lm
    prediction = shared_port.done("execute_module", "dspy.Predict", "question -> answer", "Why?", {"lm": lm})
    meta = prediction["$meta"]
    assert meta["model"] == f"{provider}/answer"
    assert list(meta["usage"]) == [meta["model"]]
