"""A language model that is an Elixir function: an engine of DSPy that sends its requests as calls to Elixir.

``DSPex.Python.ModelFunction`` documents the function, and normalizes the function's answer to one form of map.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import TimeoutError as NotYetError
from typing import Any, Final

from dspy import lm15
from dspy._vendor.lm15.serde import request_to_dict

from erlport_bridge import worker
from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.limits import REPLY_BYTES, size_of
from erlport_bridge.port import elixir
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.models import content_parts
from erlport_bridge.programs.models.bridge_lm import BridgeLM

_REPLY: Final = "the model's reply"
# Kind of an error -> exception, which DSPy turns into its own error with the model's name.
_ERRORS: Final[Mapping[str, type[lm15.LM15Error]]] = {
    "rate_limit": lm15.RateLimitError,
    "auth": lm15.AuthError,
    "billing": lm15.BillingError,
    "server": lm15.ServerError,
    "timeout": lm15.TimeoutError,
    "transport": lm15.TransportError,
    "context_window": lm15.ContextLengthError,
    "unsupported_model": lm15.UnsupportedModelError,
    "provider": lm15.ProviderError,
}
_SETTINGS: Final = (
    *("temperature", "max_tokens", "top_p", "stop", "seed"),
    *("presence_penalty", "frequency_penalty", "response_format", "reasoning"),
)
# Polling interval of a thread that waits for an answer: the longest delay until an interrupt takes effect.
_POLL_S: Final = 0.05

# The running streams, by the token of the request. Each queue holds at most one piece: the back-pressure of a stream.
_streams: dict[str, asyncio.Queue[str]] = {}


def elixir_model(callback_id: str, name: str, num_retries: int) -> BridgeLM:
    """Return the model whose requests call the Elixir function with this id."""
    return BridgeLM(
        name,
        carried=content_parts.ELIXIR,
        engine=_ElixirEngine(callback_id),
        async_engine=_AsyncElixirEngine(callback_id),
        num_retries=num_retries,
    )


async def take_piece(token: str, text: str) -> bool:
    """Add a piece of an answer to its stream, waiting for room; return ``False`` if the stream has ended."""
    pieces = _streams.get(token)
    if pieces is not None:
        await pieces.put(text)
    return token in _streams


class _ElixirEngine:
    """An engine of DSPy for requests from threads."""

    def __init__(self, callback_id: str) -> None:
        self._callback_id = callback_id

    def complete(self, request: lm15.Request) -> lm15.Response:
        return _response(self._ask(_new_token(), request), request)

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Yield the complete answer as the events of a stream; in a thread there are no earlier pieces."""
        token = _new_token()
        yield lm15.StreamStartEvent(id=None, model=request.model)
        yield from _rest(self._ask(token, request))

    def _ask(self, token: str, request: lm15.Request) -> Any:
        try:
            answer = elixir.begin_call(*_call(self._callback_id, token, request, stream=False))
            while True:
                try:
                    return answer.result(_POLL_S)
                except NotYetError:
                    if answer.done():
                        raise
        except OperationError as error:
            raise _failed(error) from None
        except BaseException:
            _cancel(token)
            raise


class _AsyncElixirEngine:
    """An engine of DSPy for requests from tasks of the event loop."""

    def __init__(self, callback_id: str) -> None:
        self._callback_id = callback_id

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return _response(await self._ask(_new_token(), request, stream=False), request)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        token = _new_token()
        pieces = _streams[token] = asyncio.Queue(1)
        answer = asyncio.ensure_future(self._ask(token, request, stream=True))
        size = 0
        try:
            yield lm15.StreamStartEvent(id=None, model=request.model)
            async for piece in _until(answer, pieces):
                size += len(piece)
                REPLY_BYTES.check(size, _REPLY)
                yield lm15.StreamDeltaEvent(lm15.TextDelta(text=piece))
            for event in _rest(answer.result()):
                yield event
        finally:
            del _streams[token]
            answer.cancel()
            # Release `take_piece`, which may wait for room, so that it returns False.
            while not pieces.empty():
                pieces.get_nowait()

    async def _ask(self, token: str, request: lm15.Request, *, stream: bool) -> Any:
        try:
            return await elixir.call(*_call(self._callback_id, token, request, stream=stream))
        except OperationError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:
            _cancel(token)
            raise


async def _until(answer: asyncio.Future[Any], pieces: asyncio.Queue[str]) -> AsyncIterator[str]:
    """Yield pieces until the answer is complete and the queue is empty."""
    while not (answer.done() and pieces.empty()):
        piece = asyncio.ensure_future(pieces.get())
        try:
            await asyncio.wait({piece, answer}, return_when=asyncio.FIRST_COMPLETED)
            if piece.done():
                yield piece.result()
        finally:
            piece.cancel()


def _new_token() -> str:
    # The number of the worker that has made it tells the other side where to send the pieces of the answer.
    return f"{worker.number() or 0}-{secrets.token_hex(8)}"


def _call(callback_id: str, token: str, request: lm15.Request, *, stream: bool) -> tuple[str, str, list[Any]]:
    argument = {"token": token, "stream": stream, "request": _request_term(request)}
    return callbacks.invocation(callback_id, argument)


def _cancel(token: str) -> None:
    # The result is not needed.
    elixir.begin_call(callbacks.CALLBACKS_MODULE, "cancel", [token])


def _request_term(request: lm15.Request) -> dict[str, Any]:
    """Return the request as a map for the Elixir function."""
    whole = request_to_dict(request)
    config = whole.get("config") or {}
    messages = [{"role": message["role"], "content": _content(message["parts"])} for message in whole["messages"]]
    if whole.get("system"):
        system = whole["system"]
        messages.insert(0, {"role": "system", "content": system if isinstance(system, str) else _content(system)})
    return {
        "model": request.model,
        "messages": messages,
        "settings": {name: config[name] for name in _SETTINGS if config.get(name) not in (None, [], ())},
        "tools": whole.get("tools") or [],
    }


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _response(answer: Any, request: lm15.Request) -> lm15.Response:
    parts, finish_reason, usage = _read(answer)
    return lm15.Response(
        id=None,
        model=request.model,
        message=lm15.Message.assistant(parts),
        finish_reason=finish_reason,
        usage=usage or lm15.Usage(),
    )


def _rest(answer: Any) -> Iterator[Any]:
    """Yield the parts of an answer that were not streamed as pieces, as events of the stream."""
    parts, finish_reason, usage = _read(answer, is_rest=True)
    for index, part in enumerate(parts, start=1):
        if isinstance(part, lm15.TextPart):
            yield lm15.StreamDeltaEvent(lm15.TextDelta(text=part.text))
        elif isinstance(part, lm15.ThinkingPart):
            yield lm15.StreamDeltaEvent(lm15.ThinkingDelta(text=part.text, part_index=index))
        else:
            call = lm15.ToolCallDelta(input=json.dumps(part.input), part_index=index, id=part.id, name=part.name)
            yield lm15.StreamDeltaEvent(call)
    yield lm15.StreamEndEvent(finish_reason=finish_reason, usage=usage)


def _read(answer: Any, *, is_rest: bool = False) -> tuple[list[Any], str | None, lm15.Usage | None]:
    """Read an answer: its parts, finish reason and usage. With ``is_rest``, the end of a stream, it may have no parts.

    Raises:
        lm15.LM15Error: The answer is an error, or is malformed.
    """
    REPLY_BYTES.check(size_of(answer, REPLY_BYTES.most), _REPLY)
    error = answer.get("error")
    if error is not None:
        raise _ERRORS[error["kind"]](error["message"], retry_after=error["retry_after"])
    try:
        parts: list[Any] = []
        if answer.get("reasoning"):
            parts.append(lm15.ThinkingPart(answer["reasoning"]))
        if answer.get("text") or not (is_rest or answer.get("tool_calls")):
            parts.append(lm15.TextPart(answer["text"]))
        for index, call in enumerate(answer.get("tool_calls") or []):
            call_id = call.get("id") or f"call_{index}"
            parts.append(lm15.ToolCallPart(id=call_id, name=call["name"], input=call["arguments"]))
        usage = lm15.Usage(**answer["usage"]) if answer.get("usage") else None
        reason = answer.get("finish_reason")
        return parts, str(reason) if reason else "tool_call" if answer.get("tool_calls") else "stop", usage
    except (KeyError, TypeError, ValueError) as wrong:
        what = f"it lacks {wrong}" if isinstance(wrong, KeyError) else message_of(wrong)
        raise lm15.ProviderError(f"the answer of the model function cannot be read: {what}") from None


def _failed(error: OperationError) -> lm15.LM15Error:
    """Return the error of a function that raised, ended, timed out, or is not registered any more."""
    return lm15.ProviderError(f"the model function failed: {error.message}")
