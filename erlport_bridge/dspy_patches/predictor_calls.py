"""Call the adapter of a predictor without a context of its own, which only turns off a stream that there may be."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
from dspy.predict import predict


def without_stream(original: Callable[..., Awaitable[dspy.Prediction]]) -> Callable[..., Awaitable[dspy.Prediction]]:
    """Return a replacement for ``Predict.aforward``, which leaves all streams to DSPy."""

    @functools.wraps(original)
    async def aforward(self: dspy.Predict, **kwargs: Any) -> dspy.Prediction:
        if dspy.settings.send_stream is not None:
            return await original(self, **kwargs)
        lm, config, signature, demos, inputs = self._forward_preprocess(**kwargs)
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        adapter = predict.resolve_adapter(lm, adapter, signature, self.fields, self.signature)
        completions = await adapter.acall(lm, lm_kwargs=config, signature=signature, demos=demos, inputs=inputs)
        return self._forward_postprocess(completions, signature, **inputs)

    return aforward
