"""Record the spans of requests to language models: tokens, cost, cache, repetitions; with texts, what was said."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Final

from erlport_bridge import tracing
from erlport_bridge.errors import cause_of
from erlport_bridge.tracing import Span

#: The counts of a request: the name here, and where an answer's usage has it: under which key of which group.
_COUNTS: Final = (
    ("input_tokens", None, "prompt_tokens"),
    ("output_tokens", None, "completion_tokens"),
    ("total_tokens", None, "total_tokens"),
    ("cached_tokens", "prompt_tokens_details", "cached_tokens"),
    ("reasoning_tokens", "completion_tokens_details", "reasoning_tokens"),
)


def request(asked: str, model: str, sent: Any) -> contextlib.AbstractContextManager[Span | None]:
    """Return a context manager whose body is a request to ``model``, in place of ``asked`` if that has failed.

    Args:
        asked: The model that the caller named.
        model: The model that gets the request.
        sent: The messages, or a prompt.
    """
    place = tracing.here()
    if place is None:
        return contextlib.nullcontext()
    provider = model.partition("/")[0]
    attributes: dict[str, Any] = {"provider": provider, "model": model, "attempts": 1}
    if asked != model:
        attributes["fallback_for"] = asked
    entered = tracing.span("model", model, **attributes)
    return entered if sent is None or place.recording.texts is None else _with_messages(entered, sent)


@contextlib.contextmanager
def _with_messages(entered: contextlib.AbstractContextManager[Span | None], sent: Any) -> Any:
    with entered as span:
        if span is not None and span.texts is not None and not span.is_redacted:
            messages = sent if isinstance(sent, list) else [{"role": "user", "content": sent}]
            span.set(messages=span.texts.keep_messages(messages))
        yield span


def repeated(span: Span, error: Exception) -> None:
    """Record that an attempt has failed, after which the request is sent again."""
    cause = cause_of(error)
    retry = {"kind": cause["kind"], "message": span.shown(cause["message"]), "after_us": span.since_start_us()}
    span.set(attempts=span.attributes.get("attempts", 1) + 1, retries=[*span.attributes.get("retries", ()), retry])


def answered(span: Span, result: Any) -> None:
    """Record DSPy's result of a request."""
    usage, cost = ({}, 0.0) if result.cache_hit else (result.usage or {}, result.cost)
    told: dict[str, Any] = span.attributes
    told["cache_hit"] = bool(result.cache_hit)
    for name, group, key in _COUNTS:
        counts = usage if group is None else usage.get(group)
        if counts:
            count = counts.get(key) if isinstance(counts, dict) else None
            if type(count) is int and count >= 0:
                told[name] = count
    if isinstance(cost, int | float) and math.isfinite(cost):
        told["cost"] = float(cost)
    for response in result.responses:
        if response.finish_reason:
            told["finish_reason"] = str(response.finish_reason)
            break
    if span.texts is not None and not span.is_redacted:
        span.set(reply=[span.texts.keep(_reply(output)) for output in result.outputs])


def keep_redacted(span: Span, texts: Mapping[str, Any]) -> None:
    """Keep the messages and the reply of a request as the application has redacted them."""
    if span.texts is not None:
        messages, reply = texts.get("messages"), texts.get("reply")
        span.set(
            messages=span.texts.keep_messages(messages) if isinstance(messages, list) else None,
            reply=list(map(span.texts.keep, map(_reply, reply))) if isinstance(reply, list) else None,
        )


def _reply(output: Any) -> Any:
    """Return an output of DSPy's result: its text, if it is nothing else."""
    if isinstance(output, Mapping) and output.keys() == {"text"}:
        output = output["text"]
    return "" if output is None else output
