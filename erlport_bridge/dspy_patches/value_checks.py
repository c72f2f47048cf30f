"""Check the usual values of DSPy's requests and answers at once: a tenth of what DSPy does for a prediction.

Each class of ``dspy.lm15`` checks its fields by a call for each field, and for each element of a sequence. Here a value
of the usual form passes with a few comparisons; any other one is left to DSPy, which converts or refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

from dspy.lm15 import Config, FinishReason, Message, Role, TextPart, Usage

_Check = Callable[[Any], None]

# Those whose messages may hold texts.
_ROLES: Final = frozenset(get_args(Role)) - {"tool"}
_FINISH_REASONS: Final = frozenset(get_args(FinishReason))


def of_text(original: _Check) -> _Check:
    """Return a replacement for ``TextPart.__post_init__``."""

    def check(part: Any) -> None:
        if type(part.text) is not str or type(part.continuation) is not tuple or part.continuation:
            original(part)

    return check


def of_message(original: _Check) -> _Check:
    """Return a replacement for ``Message.__post_init__``: messages of texts alone pass."""

    def check(message: Any) -> None:
        parts, continuation = message.parts, message.continuation
        if type(parts) is tuple and parts and type(continuation) is tuple and not continuation:
            role = message.role
            if type(role) is str and role in _ROLES:
                for part in parts:
                    if type(part) is not TextPart:
                        break
                else:
                    return
        original(message)

    return check


def of_request(original: _Check) -> _Check:
    """Return a replacement for ``Request.__post_init__``: requests without tools pass."""

    def check(request: Any) -> None:
        messages, tools, system, config = request.messages, request.tools, request.system, request.config
        if (
            (type(request.model) is str and request.model)
            and (type(messages) is tuple and messages)
            and (type(tools) is tuple and not tools)
            and (system is None or (type(system) is str and system))
            and (type(config) is Config and config.tool_choice is None)
        ):
            for message in messages:
                if type(message) is not Message:
                    break
            else:
                return
        original(request)

    return check


def of_usage(original: _Check) -> _Check:
    """Return a replacement for ``Usage.__post_init__``: counts that are integers, or none, pass."""

    def check(usage: Any) -> None:
        counts = (
            *(usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.cache_read_tokens),
            *(usage.cache_write_tokens, usage.reasoning_tokens, usage.input_audio_tokens, usage.output_audio_tokens),
        )
        for count in counts:
            if count is not None and (type(count) is not int or count < 0):
                original(usage)
                return
        # DSPy adds them up.
        if usage.total_tokens is None and usage.input_tokens is not None and usage.output_tokens is not None:
            original(usage)

    return check


def of_response(original: _Check) -> _Check:
    """Return a replacement for ``Response.__post_init__``: answers without a provider's own data pass."""

    def check(response: Any) -> None:
        identifier, reason, adaptations = response.id, response.finish_reason, response.adaptations
        if not (
            (identifier is None or (type(identifier) is str and identifier))
            and (type(response.model) is str and response.model)
            and (type(response.message) is Message and response.message.role == "assistant")
            and (type(reason) is str and reason in _FINISH_REASONS)
            and type(response.usage) is Usage
            and response.logprobs is None
            and response.provider_data is None
            and (type(adaptations) is tuple and not adaptations)
            and response.logprobs_complete is True
        ):
            original(response)

    return check
