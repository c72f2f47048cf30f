"""Name spans and their attributes after OpenTelemetry's semantic conventions for generative AI.

What the conventions have no name for is an attribute ``dspex.…``, and so is a span's kind, ``dspex.kind``. The cost is
``gen_ai.usage.cost``, which backends read although the conventions do not have it.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

#: The attributes that have texts of prompts, answers, tools and code.
TEXTS: Final = frozenset(("messages", "reply", "arguments", "result", "code", "output"))

# By what the name of a model begins with; the others are their own names.
_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
# Modules that choose tools, or write code, until they have an answer.
_AGENTS: Final = frozenset(("dspy.ReAct", "dspy.CodeAct", "dspy.RLM"))
_PROGRAM: Final = "program"
# Attributes of a model's request by their names in the conventions, as they are.
_OF_MODELS: Final = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "cost": "gen_ai.usage.cost",
}
_US: Final = 1_000_000

Value = str | bool | int | float | Sequence[str]


class Described(NamedTuple):
    """A span as OpenTelemetry has it.

    Attributes:
        name: Its name.
        kind: ``SERVER``, ``CLIENT`` or ``INTERNAL``.
        attributes: Its attributes.
        events: What happened within it: a name, the microseconds since its start, and attributes.
    """

    name: str
    kind: str
    attributes: dict[str, Value]
    events: list[tuple[str, int, dict[str, Value]]]


def described(kind: str, name: str, given: Mapping[str, Any], *, has_texts: bool) -> Described:
    """Return how OpenTelemetry names a span.

    Args:
        kind: The kind of the span.
        name: Its name.
        given: Its attributes.
        has_texts: Whether prompts, answers and the like may be told.
    """
    rest = {key: value for key, value in given.items() if value is not None and (has_texts or key not in TEXTS)}
    found = Described(name, "INTERNAL", {"dspex.kind": kind}, [])
    describe = _BY_KIND.get(kind)
    if describe is not None:
        found = describe(found, name, rest)
    found.attributes.update({f"dspex.{key}": _plain(value) for key, value in rest.items()})
    return found


def _call(found: Described, _name: str, rest: dict[str, Any]) -> Described:
    if conversation := rest.get("conversation"):
        found.attributes["gen_ai.conversation.id"] = str(conversation)
    return found


def _python(found: Described, _name: str, _rest: dict[str, Any]) -> Described:
    return found._replace(kind="SERVER")


def _module(found: Described, name: str, _rest: dict[str, Any]) -> Described:
    if name in _AGENTS:
        return _operation(found, "invoke_agent", "agent", name)
    if name == _PROGRAM:
        found.attributes["gen_ai.operation.name"] = "invoke_workflow"
    return found


def _tool(found: Described, name: str, rest: dict[str, Any]) -> Described:
    found = _operation(found, "execute_tool", "tool", name)
    found.attributes["gen_ai.tool.type"] = "function"
    for key in ("arguments", "result"):
        if key in rest:
            found.attributes[f"gen_ai.tool.call.{key}"] = _plain(rest.pop(key))
    return found


def _operation(found: Described, operation: str, what: str, name: str) -> Described:
    found.attributes["gen_ai.operation.name"] = operation
    found.attributes[f"gen_ai.{what}.name"] = name
    return found._replace(name=f"{operation} {name}")


def _model(found: Described, name: str, rest: dict[str, Any]) -> Described:
    provider = str(rest.pop("provider", ""))
    # The model's name without that of the provider, before which it stands.
    model = str(rest.pop("model", name)).removeprefix(f"{provider}/")
    attributes = found.attributes
    attributes["gen_ai.operation.name"] = "chat"
    attributes["gen_ai.provider.name"] = _PROVIDERS.get(provider, provider)
    attributes["gen_ai.request.model"] = model
    for key, convention in _OF_MODELS.items():
        if key in rest:
            attributes[convention] = rest.pop(key)
    if reason := rest.pop("finish_reason", None):
        attributes["gen_ai.response.finish_reasons"] = [str(reason)]
    if (first_us := rest.pop("first_token_us", None)) is not None:
        attributes["gen_ai.request.stream"] = True
        attributes["gen_ai.response.time_to_first_chunk"] = first_us / _US
    if (messages := rest.pop("messages", None)) is not None:
        attributes["gen_ai.input.messages"] = _plain([_message(message) for message in messages])
    if (reply := rest.pop("reply", None)) is not None:
        said = [_message({"role": "assistant", "content": text}) for text in reply]
        attributes["gen_ai.output.messages"] = _plain([{**one, "finish_reason": reason or ""} for one in said])
    events = [_retry(retry) for retry in rest.pop("retries", ())]
    return Described(f"chat {model}", "CLIENT", attributes, events)


def _retry(retry: Mapping[str, Any]) -> tuple[str, int, dict[str, Value]]:
    """Return the event of an attempt that has failed; its message may quote the provider, who may quote the prompt."""
    return "dspex.retry", retry["after_us"], {"error.type": retry["kind"]}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": message["role"], "parts": [{"type": "text", "content": message.get("content")}]}


_BY_KIND: Final = {"call": _call, "python": _python, "module": _module, "tool": _tool, "model": _model}


def _plain(value: Any) -> Value:
    """Return a value as an attribute holds it: anything but a text, a number and a list of texts becomes JSON."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return [str(item) for item in value]
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))
