"""The last requests to models: what was asked, by whom, what came back and what it cost.

A ring of bounded number and size, in the memory of this process. ``DSPEX_HISTORY`` says what is kept: ``off`` nothing,
``metadata`` no texts (the default), ``full`` messages and replies too.

Keys are redacted in every text. Texts of an application that wants to redact them itself are given to a function of
Elixir before they are kept, so that what is secret is nowhere in the memory of this process once the call has ended.
The span of the request gets the same texts, if the trace or its export has texts.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from erlport_bridge import tracing
from erlport_bridge.errors import OperationError, kind_of, message_of
from erlport_bridge.limits import ID_BYTES
from erlport_bridge.port import elixir
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.models import model_spans
from erlport_bridge.programs.options import IntegerOption, TextOption, Vocabulary
from erlport_bridge.programs.text import arguments
from erlport_bridge.redaction import redact, redact_beginning
from erlport_bridge.request import request_id

_VARIABLE: Final = "DSPEX_HISTORY"
_MODES: Final = ("off", "metadata", "full")
#: The most requests that are kept, and the most characters of their texts together.
MAX_REQUESTS: Final = 1_000
MAX_CHARACTERS: Final = 16_000_000
# Of the messages, and of the reply, of one request.
_MAX_TEXT_CHARACTERS: Final = 200_000

#: The options of the operation ``history``.
HISTORY_OPTIONS: Final = Vocabulary(
    IntegerOption(name="n", default=20, minimum=1, maximum=MAX_REQUESTS, description="how many, the newest ones"),
    TextOption(name="request_id", limit=ID_BYTES, description="only requests of the call of this name"),
    TextOption(name="session_id", limit=ID_BYTES, description="only requests of calls of this session"),
)

#: The session of the current call.
session_id: ContextVar[str | None] = ContextVar("history_session", default=None)
#: The id of the function of Elixir that redacts the texts of the current call; ``None``: the application has none.
redactor: ContextVar[str | None] = ContextVar("history_redactor", default=None)

_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


class _Ring:
    """The requests that are kept, the oldest first. Appending is safe in any thread."""

    def __init__(self) -> None:
        self._requests: deque[tuple[dict[str, Any], int]] = deque(maxlen=MAX_REQUESTS)
        self._characters = 0

    def keep(self, request: dict[str, Any], characters: int) -> None:
        """Add a request with texts of this size; the oldest ones leave."""
        if len(self._requests) == MAX_REQUESTS:
            self._drop()
        self._requests.append((request, characters))
        self._characters += characters
        while self._characters > MAX_CHARACTERS and len(self._requests) > 1:
            self._drop()

    def _drop(self) -> None:
        self._characters -= self._requests.popleft()[1]

    def clear(self) -> None:
        """Drop all requests."""
        self._requests.clear()
        self._characters = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (request for request, _ in tuple(self._requests))


_ring: Final = _Ring()
_mode = os.environ.get(_VARIABLE) or "metadata"


def check_mode() -> None:
    """Check what the environment says of the history.

    Raises:
        OperationError: Of kind ``input``.
    """
    if _mode not in _MODES:
        raise OperationError("input", f"expected {', '.join(_MODES)} in the environment at {_VARIABLE}, got {_mode!r}")


def has_texts() -> bool:
    """Return whether messages and replies are kept."""
    return _mode == "full"


def last(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the last requests that fit the options :data:`HISTORY_OPTIONS`, the oldest first."""
    wanted = [(name, given[name]) for name in ("request_id", "session_id") if given[name] is not None]
    found = [kept for kept in _ring if all(kept[name] == value for name, value in wanted)]
    return [_redacted(kept) for kept in found[-given["n"] :]]


def forget() -> None:
    """Forget all requests."""
    _ring.clear()


def retried() -> None:
    """Record that the current request is sent again, after an attempt that failed."""
    recording = _current.get()
    if recording is not None:
        recording.attempts += 1


class Recording:
    """Records one request within a ``with`` block, or an ``async with`` block.

    Args:
        asked: The model that the caller named.
        model: The model that gets the request: ``asked`` or one of its fallback models.

    Attributes:
        attempts: How often the request has been sent.
    """

    def __init__(self, asked: str, model: str) -> None:
        self._asked = asked
        self._model = model
        self._messages: Any = None
        self._result: Any = None
        self.attempts = 0

    def __enter__(self) -> Recording:
        self._at = time.time()
        self._started_at = time.monotonic()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        if _mode != "off":
            # A function of Elixir cannot be awaited here, so that texts that it would redact are left out.
            texts = self._texts() if redactor.get() is None and _mode == "full" else {}
            self._keep(error, texts)

    async def __aenter__(self) -> Recording:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        redacting, span = redactor.get(), tracing.current()
        is_traced = span is not None and span.texts is not None and self.attempts > 0
        if redacting is None or not (_mode == "full" or is_traced) or not isinstance(error, Exception | None):
            self.__exit__(kind, error, traceback)
            return
        _current.reset(self._token)
        texts = self._texts()
        try:
            given = await elixir.call(*callbacks.invocation(redacting, texts), is_seen=False)
            texts = {name: given[name] for name in ("messages", "reply")} if isinstance(given, Mapping) else {}
        except (OperationError, KeyError):  # its log has an entry about the function
            texts = {}
        if span is not None:
            model_spans.keep_redacted(span, texts)
        if _mode != "off":
            self._keep(error, texts if _mode == "full" else {})

    def sent(self, call: Any) -> None:
        """Record the request of DSPy that is sent now."""
        self.attempts += 1
        self._messages = call.legacy.get("messages")

    def answered(self, result: Any) -> None:
        """Record DSPy's result."""
        self._result = result

    def _texts(self) -> dict[str, Any]:
        messages = [
            {"role": str(message.get("role")), "content": _content(message.get("content"))}
            for message in self._messages or ()
        ]
        reply = None if self._result is None else [_output(output) for output in self._result.outputs]
        return {"messages": _cut(messages), "reply": _cut(reply)}

    def _keep(self, error: BaseException | None, texts: dict[str, Any]) -> None:
        if not self.attempts:  # a budget, a key or the cache's lookup came before
            return
        result = self._result
        is_cached = result is not None and result.cache_hit
        usage = {} if result is None or is_cached else result.usage or {}
        kept = {
            "at_ms": self._at * 1000,
            "duration_ms": (time.monotonic() - self._started_at) * 1000,
            "request_id": request_id.get(),
            "session_id": session_id.get(),
            "model": self._model,
            "asked": self._asked,
            "attempts": 0 if is_cached else self.attempts,
            "cache_hit": is_cached,
            "usage": {name: count for name, count in usage.items() if type(count) is int},
            "cost": None if result is None else result.cost,
            "error": None if error is None else {"kind": kind_of(error), "message": _message(error)},
            "messages": None,
            "reply": None,
            **texts,
        }
        _ring.keep(kept, _size(texts))


def _message(error: BaseException) -> str:
    """Return the message of an error, which may quote what the application redacts."""
    return message_of(error) if redactor.get() is None else "[redacted]"


def _content(content: Any) -> Any:
    """Return the content of a message; a part that is not text becomes its type and size."""
    if not isinstance(content, list):
        return "" if content is None else str(content)
    return [_part(part) for part in content]


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        return {"type": type(part).__name__}
    if part.get("type") == "text":
        return {"type": "text", "text": str(part.get("text"))}
    return {"type": str(part.get("type")), "characters": _size(part)}


def _output(output: Any) -> Any:
    """Return one completion of a reply: its text, or a map with the text, reasoning and calls of tools."""
    if not isinstance(output, Mapping):
        return "" if output is None else str(output)
    calls = [dict(call["function"]) for call in output.get("tool_calls") or ()]
    found = {"text": output.get("text"), "reasoning": output.get("reasoning_content"), "tool_calls": calls}
    return {name: value for name, value in found.items() if value}


def _cut(texts: Any) -> Any:
    """Return texts without API keys, each cut where all of them together are too long."""
    left = _MAX_TEXT_CHARACTERS

    def cut(value: Any) -> Any:
        nonlocal left
        if isinstance(value, str):
            kept = redact_beginning(value, max(left, 0))
            cut_off = len(value) - max(left, 0)
            left -= len(value)
            return kept if cut_off <= 0 else f"{kept}… ({cut_off} more characters)"
        if isinstance(value, list):
            return [cut(item) for item in value]
        return {name: cut(item) for name, item in value.items()} if isinstance(value, Mapping) else value

    return cut(texts)


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, arguments.MAPPINGS):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 1


def _redacted(value: Any) -> Any:
    """Return a value without API keys in its texts, also those that were configured after it was kept."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return {name: _redacted(item) for name, item in value.items()} if isinstance(value, Mapping) else value
