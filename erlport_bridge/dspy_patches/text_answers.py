"""Read an answer that is one text, as nearly all are, without looking for each kind of content in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dspy.lm15 import Response, TextPart

# DSPy adds up counts of these providers, as it does of all whose name holds that of Anthropic.
_ADDING: Final = frozenset({"gemini", "vertex", "vertex-express", "xai"})


def output_of(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a replacement for ``legacy_output``."""

    def legacy_output(response: Response, *, logprobs: bool = False) -> dict[str, Any]:
        parts = response.message.parts
        if len(parts) == 1 and type(parts[0]) is TextPart and not logprobs:
            return {"text": parts[0].text}
        return original(response, logprobs=logprobs)

    return legacy_output


def usage_of(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a replacement for ``usage_dict``, which leaves to DSPy the providers whose counts it adds up."""

    def usage_dict(response: Response, provider: str | None = None) -> dict[str, Any]:
        if provider and (provider in _ADDING or "anthropic" in provider):
            return original(response, provider)
        usage = response.usage
        found: dict[str, Any] = {}
        if usage.input_tokens is not None:
            found["prompt_tokens"] = usage.input_tokens
        if usage.output_tokens is not None:
            found["completion_tokens"] = usage.output_tokens
        if usage.total_tokens is not None:
            found["total_tokens"] = usage.total_tokens
        if (
            usage.cache_read_tokens is usage.cache_write_tokens is usage.input_audio_tokens is None
            and usage.reasoning_tokens is usage.output_audio_tokens is None
        ):
            if found:
                found["prompt_tokens_details"] = found["completion_tokens_details"] = None
            return found
        return original(response, provider)

    return usage_dict
