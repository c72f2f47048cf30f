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


@pytest.mark.parametrize("headers", [{}, {"headers": {"X-Team": "blue"}}])
def test_errors_name_the_model_as_its_caller_did(
    shared_port: PortProcess, model_server: ModelServer, headers: dict[str, Any]
) -> None:
    call = ("execute_module", "dspy.Predict", "question -> answer", "Why?")
    failing = {**model(model_server, "openai_compatible", "status-401"), **headers}
    gone = {**failing, "api_base": "http://127.0.0.1:9/v1", "num_retries": 0}
    for lm, kind in ((failing, "auth"), (gone, "transport")):
        details = shared_port.failed(*call, {"lm": lm})
        assert (details["kind"], details["model"]) == (kind, "openai_compatible/status-401")
        assert details["message"].startswith("[openai_compatible/status-401] ")
        (failed,) = shared_port.done(*call, {"lm": [lm, "embedded"]})["$meta"]["failed_models"]
        assert "vllm" not in str(failed)
