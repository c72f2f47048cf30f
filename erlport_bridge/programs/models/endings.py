"""Why the answer of a model ended: a refusal, a content filter, a limit of tokens, or no text at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from dspy import lm15

from erlport_bridge.errors import OperationError
from erlport_bridge.request import Assigned

_ORDINARY: Final = frozenset({"stop", "tool_call", "tool_calls", "function_call", "end_turn", None})
_LENGTH: Final = "length"
_FILTER: Final = "content_filter"
_MAX_REFUSAL_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Ending:
    """How one answer of a model ended, if not in the ordinary way.

    Attributes:
        model: The name of the model for callers.
        reason: The finish reason, such as ``length``.
        refusal: The text with which the model refused.
        is_empty: Whether the answer has neither text nor tool calls.
        reasoning_tokens: How many tokens the model spent on its reasoning, if known.
    """

    model: str
    reason: str | None = None
    refusal: str | None = None
    is_empty: bool = False
    reasoning_tokens: int | None = None

    @property
    def is_lasting(self) -> bool:
        """Whether the same request would end in the same way."""
        return self.refusal is not None or self.reason in (_LENGTH, _FILTER)

    def __str__(self) -> str:
        """Return a sentence that says how the answer ended."""
        if self.refusal is not None:
            return f'{self.model} refused to answer: "{self.refusal[:_MAX_REFUSAL_CHARACTERS]}"'
        spent = f"; {self.reasoning_tokens} tokens went into its reasoning" if self.reasoning_tokens else ""
        if self.reason == _LENGTH:
            what = "is empty" if self.is_empty else "was cut off"
            return f"the answer of {self.model} {what}: it reached the limit of tokens; raise max_tokens{spent}"
        if self.reason == _FILTER:
            what = "is empty" if self.is_empty else "was cut off"
            return f"the answer of {self.model} {what}: a content filter ended it"
        return f"the answer of {self.model} is empty{spent}"

    def error(self, detail: str | None = None) -> OperationError:
        """Return the error of an answer that ended in this way and cannot be read."""
        error = OperationError(
            "parse", f"{self}; {detail}" if detail else str(self), model=self.model, finish_reason=self.reason
        )
        error.retryable = not self.is_lasting
        return error


@dataclass
class Endings:
    """The endings of the answers to one request, if they are not ordinary."""

    found: list[Ending] = field(default_factory=list)

    @property
    def lasting(self) -> Ending | None:
        """The first ending that the same request would have again."""
        return next((ending for ending in self.found if ending.is_lasting), None)


_current: ContextVar[Endings | None] = ContextVar("endings", default=None)


def collected(endings: Endings) -> contextlib.AbstractContextManager[None]:
    """Collect the endings of the requests inside the ``with`` block; an answer without content is an error there."""
    return Assigned(_current, endings)


def note(found: list[Ending]) -> None:
    """Record the endings of a request's answers.

    Raises:
        OperationError: Of kind ``parse``: the first answer is empty, inside of :func:`collected`.
    """
    endings = _current.get()
    if endings is not None:
        endings.found += found
        if found and found[0].is_empty:
            raise found[0].error()


def refuse_lasting() -> None:
    """Check, before a further request is paid for, that no answer to the current one ended too early.

    Raises:
        OperationError: Of kind ``parse``: an answer was cut off, filtered or refused.
    """
    endings = _current.get()
    if endings is not None and endings.lasting is not None:
        raise endings.lasting.error()


def endings_of(result: Any, model: str) -> list[Ending]:
    """Return how the answers in a result of DSPy ended, without ordinary endings."""
    if result.responses:
        found = [_of_response(response, model) for response in result.responses]
    else:
        found = [_of_choice(choice, result.usage, model) for choice in _value(result.raw, "choices") or ()]
    return [ending for ending in found if ending is not None]


def _of_response(response: lm15.Response, model: str) -> Ending | None:
    parts = response.message.parts
    if response.finish_reason in _ORDINARY and any(
        isinstance(part, lm15.TextPart) and part.text.strip() for part in parts
    ):
        return None
    refusal = " ".join(part.text for part in parts if isinstance(part, lm15.RefusalPart)) or None
    is_empty = not any(
        isinstance(part, lm15.DataPart | lm15.ToolCallPart) or (isinstance(part, lm15.TextPart) and part.text.strip())
        for part in parts
    )
    return _ending(model, response.finish_reason, refusal, is_empty, response.usage.reasoning_tokens)


def _of_choice(choice: Any, usage: Mapping[str, Any] | None, model: str) -> Ending | None:
    message = _value(choice, "message") or {}
    content, calls = _value(message, "content"), _value(message, "tool_calls")
    is_empty = not calls and not (content.strip() if isinstance(content, str) else content)
    spent = _value(_value(usage or {}, "completion_tokens_details") or {}, "reasoning_tokens")
    return _ending(model, _value(choice, "finish_reason"), _value(message, "refusal"), is_empty, spent)


def _ending(model: str, reason: str | None, refusal: Any, is_empty: bool, spent: Any) -> Ending | None:
    reason = None if reason in _ORDINARY else str(reason)
    refusal = refusal if isinstance(refusal, str) and refusal.strip() else None
    if reason is None and refusal is None and not is_empty:
        return None
    return Ending(model, reason, refusal, is_empty, spent if isinstance(spent, int) else None)


def _value(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
