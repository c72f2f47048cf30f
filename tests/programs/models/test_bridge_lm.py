"""The port's language model: what ends its requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from erlport_bridge import dspy_patches
from erlport_bridge.programs.models.bridge_lm import BridgeLM
from erlport_bridge.request import ends_at, weight
from tests.model_server import ModelServer


def test_time_that_ends_while_a_large_request_is_made_is_a_timeout(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DSPy says of any exception that it does not expect there that its engine has failed, which no retry mends."""
    lm = BridgeLM("openai/good", api_base=f"{model_server.url}/v1", api_key="k", num_retries=0)

    async def end_now(_lm: Any, _call: Any) -> None:
        ends_at.set(time.monotonic())

    monkeypatch.setattr(dspy_patches, "make_request", end_now)

    async def main() -> None:
        messages = [{"role": "user", "content": "x" * 100_000}]
        weight.weigh(messages)
        with pytest.raises(weight.LateError):
            await lm.acall(messages=messages)

    asyncio.run(main())
