"""Put an :class:`.Exchange` between LiteLLM and its connections, which judges and bounds replies as for DSPy's client.

LiteLLM asks by clients of httpx or httpx2, of its own and of the SDKs that it uses. The replies to what they send for a
request of DSPy, and for no other, pass through its exchange. LiteLLM wraps what is raised there in errors of its own,
so that the exchange keeps its error, which counts.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from dspy import lm15
from dspy._vendor.lm15.errors import map_http_error
from dspy._vendor.lm15.transports import ConnectError
from dspy._vendor.lm15.transports import TransportError as NetworkError
from dspy.clients._http import retry_after_seconds
from dspy.clients.engines.litellm_engine import AsyncLiteLLMEngine, LiteLLMEngine

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import REPLY_BYTES, most_reply_bytes
from erlport_bridge.programs.models.exchange import ERRORS, EVENT_FIELD, SUCCESS, Exchange
from erlport_bridge.request import weight

_current: Final[ContextVar[LiteLLMExchange | None]] = ContextVar("litellm_exchange", default=None)
_HTTP_MODULES: Final = ("httpx", "httpx2")
_HEAVY_BYTES: Final = 65_536
# So much of a reply shows whether it is a stream of events, JSON or neither.
_BEGINNING: Final = 8
_BEGINS_JSON: Final = re.compile(rb'[\[{"tfn0-9-]')
_TEXT_TYPES: Final = re.compile(r"no content-type|text/|application/json")
# What the last event of an answer has, in the APIs that are known, and what tells their events from others.
_ENDS: Final = re.compile(rb'"(?:finish_reason|finishReason|stop_reason)"\s*:\s*"[^"]+"')
_KNOWN: Final = re.compile(rb'"choices"|"candidates"|"message_start"|"message-start"')
# How a stream of Cohere's begins, and what Amazon's streams are.
_OF_COHERE: Final = re.compile(rb"\s*event:\s*message-start\s")
_OF_AMAZON: Final = "application/vnd.amazon.eventstream"
# Errors that say no more than their status would.
_GENERIC: Final = (lm15.ProviderError, lm15.ServerError, lm15.InvalidRequestError)
# The errors of SDKs that find no credentials; OpenAI's raises its base class for nothing else.
_NO_CREDENTIALS: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError", "OpenAIError"}
)
_MAX_QUOTED: Final = 200
# The statuses that LiteLLM gives to errors that had none.
_MADE_UP: Final = frozenset({500, 422})
_ASKS_STREAM: Final = re.compile(rb'"stream"\s*:\s*true')
# zlib's word for: gzip or deflate, as the data says.
_ANY_WINDOW: Final = 47


class _Head(NamedTuple):
    """The head of a reply, as the exchange reads it."""

    status: int
    header: Callable[[str], str | None]


class LiteLLMExchange(Exchange):
    """The requests that LiteLLM sends for one request of DSPy.

    Attributes:
        failed: What was wrong with the last reply.
    """

    def __init__(self) -> None:
        super().__init__(None, _error_of)
        self.failed: Exception | None = None
        self._retry_after_s: float | None = None
        self._knows = True
        self._has_data = False
        self._beginning = b""

    def head(self, url: str, response: Any) -> None:
        """Record the head of a reply; raise errors as :meth:`Exchange.received`."""
        self._url, self._status, self._content_type = url, None, "no content-type"
        self._is_stream, self._has_ended, self._knows, self._has_data = False, False, True, False
        self._beginning = b""
        self._retry_after_s = retry_after_seconds(response.headers.get("retry-after"))
        self.received(_Head(response.status_code, response.headers.get))
        self._is_stream = self._content_type.lower().startswith(_OF_AMAZON)

    def sent(self, url: str) -> None:
        """Record that a request is sent."""
        self._url, self._status = url, None

    @property
    def is_judged(self) -> bool:
        """Whether the reply is text that says it is an answer."""
        return self._status in SUCCESS and _TEXT_TYPES.match(self._content_type.lower()) is not None

    def event_line(self, line: bytes) -> None:
        """Take a line of a stream; raise the error in it."""
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            return
        if not data.startswith((b"{", b"[")):
            raise lm15.TransportError(f"{self._reply()} cannot be read as an answer")
        self.line(line)
        self._knows = bool(_KNOWN.search(data)) if not self._has_data else self._knows
        self._has_data = True
        if _ENDS.search(data):
            self._has_ended = True

    def begin_events(self) -> None:
        """Record that the reply is a stream of events."""
        self._is_stream = True

    def end_events(self) -> None:
        """Raise an error if the stream has ended before the answer."""
        # Of an API that is not known, LiteLLM says whether the answer is whole.
        if self._knows:
            self.end()

    def not_json(self) -> lm15.ProviderError:
        """Return the error of a page or another text."""
        return lm15.ProviderError(f"{self._reply()} cannot be read as an answer", status=self._status)

    def whole(self, body: bytes) -> None:
        """Judge the body of a whole reply; raise errors as :meth:`Exchange.body`."""
        self.body(body)
        self._beginning = body[:_HEAVY_BYTES]
        if not body.lstrip().startswith((b"{", b"[")):
            raise self.not_json()

    def as_events(self, body: bytes) -> bytes:
        """Return a whole answer as the stream that was asked for."""
        try:
            data = json.loads(body)
        except ValueError as error:
            raise lm15.ProviderError(
                f"{self._reply()} cannot be read as an answer: {error}", status=self._status
            ) from None
        choices = data.get("choices") if isinstance(data, Mapping) else None
        if not isinstance(choices, list) or not choices:
            raise self.no_answer(data)
        head = {name: data[name] for name in ("id", "created", "model") if name in data}
        head["object"] = "chat.completion.chunk"
        deltas = [_delta(choice) for choice in choices]
        ends = [
            {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
            for choice in choices
        ]
        usage = {"usage": data["usage"]} if data.get("usage") else {}
        events = [{**head, "choices": deltas}, {**head, "choices": ends}, {**head, "choices": [], **usage}]
        return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"

    @contextlib.contextmanager
    def judging(self, model: str) -> Iterator[None]:
        """Pass the replies to LiteLLM in the ``with`` block through this exchange, and raise its errors.

        Args:
            model: The name of the model that is asked.
        """
        _watch()
        token = _current.set(self)
        try:
            with self.reading():
                yield
        except Exception as error:
            found = self.failed or self._unsent(error, model) or self._misread(error) or self._by_status(error, model)
            if found is None:
                raise
            raise found from error
        finally:
            _current.reset(token)

    def _unsent(self, error: Exception, model: str) -> Exception | None:
        """Return the error of a request that could not be made: a package or credentials are missing."""
        if self._url:
            return None
        provider = model.partition("/")[0]
        cause: BaseException | None = error
        seen: set[int] = set()
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            if isinstance(cause, ImportError):
                return OperationError(
                    "missing_dependency", f"{model} needs a package that is not installed: {cause}", model=model
                )
            if type(cause).__name__ in _NO_CREDENTIALS:
                missing: Exception = lm15.AuthError(f"there are no credentials: {cause}", provider=provider)
                return missing
            cause = cause.__cause__ or cause.__context__
        return None

    def _by_status(self, error: Exception, model: str) -> lm15.ProviderError | None:
        """Return the error of a status that LiteLLM has taken for another one; ``None``: its error says it.

        The status and the time to wait that the server has sent are put into an error of LiteLLM's.
        """
        if not isinstance(error, lm15.ProviderError):
            return None
        if self._status in ERRORS:
            error.status = self._status
            error.retry_after = self._retry_after_s if error.retry_after is None else error.retry_after
        if error.status is None or type(error) not in _GENERIC:
            return None
        known = {name: getattr(error, name) for name in ("provider", "provider_code", "request_id", "retry_after")}
        found: lm15.ProviderError = map_http_error(error.status, error.message, **known)
        found.model = model
        return None if type(found) is type(error) else found

    def _misread(self, error: Exception) -> lm15.LM15Error | None:
        """Return the error of a reply of status 200 that LiteLLM could not read."""
        if self._status not in SUCCESS or isinstance(error, OperationError):
            return None
        status = getattr(error, "status", None)
        if isinstance(error, lm15.LM15Error) and status is not None and status not in _MADE_UP:
            return None
        if self._is_stream:
            # LiteLLM also ends a stream for its content, such as one piece that is repeated without end.
            return lm15.TransportError(f"{self._reply()} cannot be read as an answer: {str(error)[:_MAX_QUOTED]}")
        try:
            return self.no_answer(json.loads(self._beginning))
        except ValueError:
            return self.not_json()


def _delta(choice: Any) -> dict[str, Any]:
    message = choice.get("message") or {}
    delta = {name: value for name, value in message.items() if value is not None}
    if isinstance(delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
    return {"index": choice.get("index", 0), "delta": delta, "finish_reason": None}


def _error_of(status: int, text: str) -> lm15.ProviderError:
    error = json.loads(text)["error"]
    message = error.get("message") if isinstance(error, Mapping) else error
    found: lm15.ProviderError = map_http_error(status, str(message or text))
    return found


class Engine(LiteLLMEngine):  # type: ignore[misc]
    """The engine for requests from threads."""

    def complete_legacy(self, lm: Any, request: Any, **context: Any) -> Any:
        """Send a request, and return the result."""
        with LiteLLMExchange().judging(lm.model):
            return super().complete_legacy(lm, request, **context)

    def complete(self, request: lm15.Request) -> Any:
        """Send a request, and return the answer."""
        with LiteLLMExchange().judging(request.model):
            return super().complete(request)


class AsyncEngine(AsyncLiteLLMEngine):  # type: ignore[misc]
    """The engine for requests from tasks of the event loop."""

    async def complete_legacy(self, lm: Any, request: Any, **context: Any) -> Any:
        """Send a request, and return the result."""
        with LiteLLMExchange().judging(lm.model):
            return await super().complete_legacy(lm, request, **context)

    async def complete(self, request: lm15.Request) -> Any:
        """Send a request, and return the answer."""
        with LiteLLMExchange().judging(request.model):
            return await super().complete(request)


class _Reply:
    """Takes the pieces of one reply, and gives out what LiteLLM is to read.

    Args:
        exchange: The exchange.
        response: The reply of httpx, whose head has come.
        asks_stream: Whether the request asked for a stream.
    """

    def __init__(self, exchange: LiteLLMExchange, response: Any, *, asks_stream: bool) -> None:
        self.exchange = exchange
        content_type = (response.headers.get("content-type") or "").lower()
        self._is_stream = content_type.startswith("text/event-stream")
        self._is_json = content_type.startswith("application/json")
        self._asks_stream = asks_stream
        self._most = most_reply_bytes(content_type)
        self._inflating = _inflating(response)
        self._is_events: bool | None = None
        self._is_of_cohere: bool | None = None
        self._pending = b""
        self._body: list[bytes] = []
        self._wrong: Exception | None = None
        self.size = 0

    def take(self, piece: bytes) -> bytes:
        """Take a piece; return what is to be read of it."""
        if self._inflating is not None:
            piece = self._inflating.decompress(piece, self._most - self.size + 1)
        self.size += len(piece)
        if self.size > self._most:
            raise REPLY_BYTES.error("the model's reply", most=self._most)
        if not self.exchange.is_judged:
            return piece
        if self._is_events is None:
            piece = self._pending + piece
            if len(piece.lstrip()) < _BEGINNING:
                self._pending = piece
                return b""
            self._begin(piece.lstrip())
        return self._events(piece) if self._is_events else self._whole(piece)

    def end(self) -> bytes:
        """Take the end; return what is left to be read."""
        if not self.exchange.is_judged:
            return b""
        begun, rest = self._is_events is not None, self._pending
        if not begun:
            self._body, self._pending = [rest], b""
            if not rest.strip() and self._is_stream:
                self._is_events = True
                self.exchange.begin_events()
        if self._is_events:
            self.exchange.event_line(rest)
            self.exchange.end_events()
            # The rest of other streams has been given out.
            return b"" if self._is_of_cohere is False else _line_of_cohere(rest) if self._is_of_cohere else rest
        body = b"".join(self._body)
        self.exchange.whole(body)
        return self.exchange.as_events(body) if self._is_held else b"" if begun else body

    @property
    def _is_held(self) -> bool:
        # A server may not stream at all.
        return self._asks_stream and self._is_json

    def _begin(self, text: bytes) -> None:
        self._pending = b""
        self._is_events = EVENT_FIELD.match(text) is not None
        if self._is_events:
            self.exchange.begin_events()
        elif not _BEGINS_JSON.match(text) or (self._asks_stream and not self._is_json and text[:1] not in b"{["):
            raise self.exchange.not_json()

    def _events(self, piece: bytes) -> bytes:
        if self._is_of_cohere is None:
            piece = self._pending + piece
            if b"\n" not in piece.lstrip():
                self._pending = piece
                return b""
            self._pending = b""
            self._is_of_cohere = _OF_COHERE.match(piece) is not None
        if self._is_of_cohere:
            return self._events_of_cohere(piece)
        read = -len(self._pending)
        *lines, self._pending = (self._pending + piece).split(b"\n")
        for line in lines:
            try:
                self.exchange.event_line(line.strip())
            except (lm15.LM15Error, OperationError) as error:
                # What comes before is given out first.
                self._wrong = error
                return piece[: max(0, read)]
            read += len(line) + 1
        return piece

    def _events_of_cohere(self, piece: bytes) -> bytes:
        *lines, self._pending = (self._pending + piece).split(b"\n")
        given = b""
        for line in lines:
            try:
                self.exchange.event_line(line.strip())
            except (lm15.LM15Error, OperationError) as error:
                self._wrong = error
                break
            given += _line_of_cohere(line)
        return given

    def check(self) -> None:
        """Raise the error in the piece that was taken last, if it had one."""
        if self._wrong is not None:
            raise self._wrong

    def _whole(self, piece: bytes) -> bytes:
        self._body.append(piece)
        return b"" if self._is_held else piece


def _line_of_cohere(line: bytes) -> bytes:
    """Return a line of a stream of Cohere's as LiteLLM reads it: JSON alone, with the last event below ``data`` too."""
    data = line.strip().removeprefix(b"data:").strip()
    if not line.startswith(b"data:") or not data.startswith(b"{"):
        return b""
    try:
        event = json.loads(data)
    except ValueError:  # LiteLLM says what cannot be read
        return data + b"\n"
    return json.dumps({**event, "event": event.get("type"), "data": event}).encode() + b"\n"


def _inflating(response: Any) -> Any:
    """Return what inflates a reply that is compressed all the same, within a bound."""
    encoding = (response.headers.get("content-encoding") or "identity").lower()
    if encoding == "identity":
        return None
    if encoding not in ("gzip", "deflate"):
        raise lm15.ProviderError(f"the reply has the content-encoding {encoding[:50]}, which was not asked for")
    del response.headers["content-encoding"]
    return zlib.decompressobj(_ANY_WINDOW)


# Between httpx and LiteLLM ------------------------------------------------------------------------------------------


@functools.cache
def _watch() -> None:
    """Wrap the clients of httpx and httpx2: the current exchange, if any, sees what they send and receive."""
    for name in _HTTP_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        module.Client.send = _send(module, module.Client.send)
        module.AsyncClient.send = _asend(module, module.AsyncClient.send)


def _send(module: Any, send: Callable[..., Any]) -> Callable[..., Any]:
    stream_class = type("JudgedStream", (_Stream, module.SyncByteStream), {})

    @functools.wraps(send)
    def judged(client: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        exchange = _current.get()
        if exchange is None or request.method != "POST":
            return send(client, request, stream=stream, **options)
        with _telling(module, exchange, request, options):
            response = send(client, request, stream=True, **options)
            with _closing_on_error(response.close):
                reply = _reply_to(request, response, exchange)
                response.stream = stream_class(response.stream, reply, module)
                if not stream:
                    response.read()
        return response

    return judged


def _asend(module: Any, send: Callable[..., Any]) -> Callable[..., Any]:
    stream_class = type("AsyncJudgedStream", (_AsyncStream, module.AsyncByteStream), {})

    @functools.wraps(send)
    async def judged(client: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        exchange = _current.get()
        if exchange is None or request.method != "POST":
            return await send(client, request, stream=stream, **options)
        with _telling(module, exchange, request, options):
            response = await send(client, request, stream=True, **options)
            try:
                reply = _reply_to(request, response, exchange)
                response.stream = stream_class(response.stream, reply, module)
                if not stream:
                    await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response

    return judged


@contextlib.contextmanager
def _closing_on_error(close: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        close()
        raise


@contextlib.contextmanager
def _telling(module: Any, exchange: LiteLLMExchange, request: Any, options: dict[str, Any]) -> Iterator[None]:
    """Prepare a request, and tell the exchange why it or its reply has failed."""
    exchange.sent(str(request.url))
    exchange.failed = None
    # A bound on a compressed reply would say nothing about what it becomes.
    request.headers["accept-encoding"] = "identity"
    options["follow_redirects"] = False
    with _recording(module, exchange):
        yield


@contextlib.contextmanager
def _recording(module: Any, exchange: LiteLLMExchange) -> Iterator[None]:
    try:
        yield
    except module.TimeoutException:  # which LiteLLM names
        raise
    except module.TransportError as error:
        text = str(error) or type(error).__name__
        found = ConnectError(text) if isinstance(error, module.ConnectError) else NetworkError(text)
        exchange.failed = exchange.failed or exchange.unreachable(_with_cause(found, error))
        raise
    except Exception as error:
        exchange.failed = exchange.failed or error
        raise


def _with_cause(found: NetworkError, error: BaseException) -> NetworkError:
    """Return an error of DSPy's client with the error of TLS that caused the one of httpx, if one did."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    found.__cause__ = cause
    return found


def _reply_to(request: Any, response: Any, exchange: LiteLLMExchange) -> _Reply:
    exchange.head(str(request.url), response)
    try:
        asks_stream = _ASKS_STREAM.search(request.content) is not None
    except Exception:  # noqa: BLE001 - the body of the request is itself a stream
        asks_stream = False
    return _Reply(exchange, response, asks_stream=asks_stream)


class _Stream:
    """The pieces of a reply, through its exchange."""

    def __init__(self, pieces: Any, reply: _Reply, module: Any) -> None:
        self._pieces = pieces
        self._reply = reply
        self._module = module

    def __iter__(self) -> Iterator[bytes]:
        with _recording(self._module, self._reply.exchange):
            for piece in self._pieces:
                if read := self._reply.take(piece):
                    yield read
                self._reply.check()
            if rest := self._reply.end():
                yield rest

    def close(self) -> None:
        self._pieces.close()


class _AsyncStream:
    """The pieces of a reply, through its exchange, on the event loop."""

    def __init__(self, pieces: Any, reply: _Reply, module: Any) -> None:
        self._pieces = pieces
        self._reply = reply
        self._module = module

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _recording(self._module, self._reply.exchange):
            async for piece in self._pieces:
                if read := self._reply.take(piece):
                    yield read
                self._reply.check()
            if rest := await weight.aside(self._reply.end, heavy=self._reply.size > _HEAVY_BYTES):
                yield rest

    async def aclose(self) -> None:
        await self._pieces.aclose()


#: The replacements of the patch ``litellm_engines``.
REPLACEMENTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "dspy.clients.execution:LiteLLMEngine": lambda _: Engine,
    "dspy.clients.execution:AsyncLiteLLMEngine": lambda _: AsyncEngine,
}
