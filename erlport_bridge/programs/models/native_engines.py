"""Put an :class:`.Exchange` between DSPy's own client and its connections.

An engine of DSPy sends the requests of one model. Each request gets a copy of the client whose transport tells the
exchange what is sent and what comes back; the connections remain those of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from dspy import lm15
from dspy._vendor.lm15.result import apply_client_side_stop
from dspy._vendor.lm15.transports import TransportError as NetworkError
from dspy.clients.engines.lm15_engine import AsyncLM15Engine, LM15Engine

from erlport_bridge.programs.models.addresses import Address, address_of
from erlport_bridge.programs.models.exchange import Exchange, WholeReplyError
from erlport_bridge.request import weight, within_time

# How long the end of a connection may be in coming after the last event of a stream.
_END_S: Final = 0.1
# How long the usage and the last event of chat completions may be in coming after the answer. Some gateways send no
# such event, and keep the connection open.
_LAST_EVENT_S: Final = 2.0


class _WithExchanges:
    """What both engines share.

    Args:
        config: DSPy's configuration, in which the address is as the caller gave it.
        model_type: The kind of the provider's API.
    """

    def __init__(self, config: Any = None, *, model_type: str = "chat") -> None:
        self._address: Address | None = None
        self._has_client = False
        if config is not None and config.base_urls:
            ((provider, url),) = config.base_urls.items()
            self._address = address_of(url)
            config = replace(config, base_urls={provider: self._address.plain})
        super().__init__(config, model_type=model_type)  # type: ignore[call-arg]

    def _begin(
        self, request: lm15.Request, transport: Callable[[Any, Exchange], Any], *, streaming: bool
    ) -> tuple[Exchange, Any, lm15.Request]:
        """Return the exchange of a request, the client that sends it, and the request for the provider."""
        provider, routed = self._target(request, streaming=streaming)  # type: ignore[attr-defined]
        self._has_client = True
        exchange = Exchange(self._address, provider.normalize_error)
        client = copy.copy(provider)
        client.transport = transport(provider.transport, exchange)
        return exchange, client, routed


class Engine(_WithExchanges, LM15Engine):  # type: ignore[misc]
    """The engine for requests from threads."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Send a request, and return the answer."""
        exchange, client, routed = self._begin(request, _Transport, streaming=False)
        try:
            with exchange.reading():
                return exchange.answered(client.complete(routed))
        except WholeReplyError as whole:
            return self._read(whole, exchange, client, routed)

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Send a request, and yield the events of the answer."""
        exchange, client, routed = self._begin(request, _Transport, streaming=True)
        try:
            with exchange.reading():
                for event in client.stream(routed):
                    yield exchange.event(event)
                exchange.end()
        except WholeReplyError as whole:
            yield from lm15.response_to_events(self._read(whole, exchange, client, routed))

    def _read(self, whole: WholeReplyError, exchange: Exchange, client: Any, request: lm15.Request) -> lm15.Response:
        """Return the answer in a reply that has come whole, though a stream was asked for."""
        client.transport = _Received(client.transport, whole.body)
        with exchange.reading():
            return _stopped(exchange.answered(client.complete(_without_stop(request))), request)


class AsyncEngine(_WithExchanges, AsyncLM15Engine):  # type: ignore[misc]
    """The engine for requests from tasks of the event loop."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Send a request, and return the answer."""
        exchange, client, routed = await self._begun(request, streaming=False)
        try:
            with exchange.reading():
                return exchange.answered(await client.complete(routed))
        except WholeReplyError as whole:
            return await self._read(whole, exchange, client, routed)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        """Send a request, and yield the events of the answer."""
        exchange, client, routed = await self._begun(request, streaming=True)
        try:
            with exchange.reading():
                async with contextlib.aclosing(client.stream(routed)) as events:
                    async for event in events:
                        yield exchange.event(event)
                exchange.end()
        except WholeReplyError as whole:
            for event in lm15.response_to_events(await self._read(whole, exchange, client, routed)):
                yield event

    async def _begun(self, request: lm15.Request, *, streaming: bool) -> tuple[Exchange, Any, lm15.Request]:
        """Return what :meth:`_begin` returns: from a thread where it may take long, which a hand-over does too."""
        # The first request makes the client, for which credentials may be read from files. DSPy uses a thread for all.
        if self._has_client and not weight.of_request():
            return self._begin(request, _AsyncTransport, streaming=streaming)
        return await weight.to_thread(self._begin, request, _AsyncTransport, streaming=streaming)

    async def _read(
        self, whole: WholeReplyError, exchange: Exchange, client: Any, request: lm15.Request
    ) -> lm15.Response:
        """Return the answer in a reply that has come whole, though a stream was asked for."""
        client.transport = _AsyncReceived(client.transport, whole.body)
        with exchange.reading():
            return _stopped(exchange.answered(await client.complete(_without_stop(request))), request)


def _without_stop(request: lm15.Request) -> lm15.Request:
    """Return the request as it is to be read: for an API without ``stop`` the client would ask for a stream."""
    return replace(request, config=replace(request.config, stop=()))


def _stopped(response: lm15.Response, request: lm15.Request) -> lm15.Response:
    return apply_client_side_stop(response, request.config.stop) if request.config.stop else response


class _Transport:
    """A transport for the one request of an exchange, and the reply to it."""

    def __init__(self, connections: Any, exchange: Exchange) -> None:
        self._connections = connections
        self._exchange = exchange
        self._reply: Any = None

    def stream(self, request: Any) -> _Transport:
        self._request = self._exchange.begin(request)
        return self

    def __getattr__(self, name: str) -> Any:
        # The head of the reply: its status, its headers.
        return getattr(self._reply, name)

    def __enter__(self) -> _Transport:
        with self._exchange.connecting():
            self._reply = self._connections.stream(self._request).__enter__()
        try:
            self._exchange.received(self._reply)
        except BaseException:
            self._reply.close()
            raise
        return self

    def __exit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._reply.close()

    def read(self) -> bytes:
        return self._exchange.body(self._reply.read())

    def iter_lines(self) -> Iterator[bytes]:
        lines = self._exchange.lines()
        for line in self._reply.iter_lines():
            taken = lines.take(line)
            if taken is not None:
                yield taken
                if lines.are_over(line):
                    break
        lines.end()


class _AsyncTransport:
    """A transport for the one request of an exchange, and the reply to it, on the event loop."""

    def __init__(self, connections: Any, exchange: Exchange) -> None:
        self._connections = connections
        self._exchange = exchange
        self._reply: Any = None

    def stream(self, request: Any) -> _AsyncTransport:
        self._request = self._exchange.begin(request)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)

    async def __aenter__(self) -> _AsyncTransport:
        with self._exchange.connecting():
            self._reply = await self._connections.stream(self._request).__aenter__()
        try:
            self._exchange.received(self._reply)
        except BaseException:
            await self._reply.aclose()
            raise
        return self

    async def __aexit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._reply.aclose()

    async def read(self) -> bytes:
        return self._exchange.body(await self._reply.read())

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        lines = self._exchange.lines()
        async with contextlib.aclosing(self._reply.aiter_lines()) as received:
            ends_at = None
            while (line := await _next(received, ends_at)) is not None:
                taken = lines.take(line)
                if taken is not None:
                    yield taken
                    if lines.are_over(line):
                        await _read_end(received)
                        break
                # Known after the line was read.
                ends_at = (ends_at or time.monotonic() + _LAST_EVENT_S) if self._exchange.has_answer else None
        lines.end()


async def _next(received: AsyncIterator[bytes], ends_at: float | None) -> bytes | None:
    """Return the next line of a stream; ``None``: there is none, or it has not come until ``ends_at``."""

    async def line() -> bytes | None:
        return await anext(received, None)

    if ends_at is None:
        return await line()
    try:
        return await within_time(line(), max(0.0, ends_at - time.monotonic()))
    except (TimeoutError, asyncio.TimeoutError):
        return None


async def _read_end(received: AsyncIterator[bytes]) -> None:
    """Read the end of a stream, with which its connection can be used again, unless it is long in coming."""

    async def read() -> None:
        async for _ in received:
            pass

    with contextlib.suppress(TimeoutError, asyncio.TimeoutError, NetworkError):
        await within_time(read(), _END_S)


class _Received(_Transport):
    """A transport that has the reply already."""

    def __init__(self, transport: _Transport, body: bytes) -> None:
        super().__init__(transport._connections, transport._exchange)
        self._reply = transport._reply
        self._body = body

    def __enter__(self) -> _Received:
        return self

    def read(self) -> bytes:
        return self._exchange.body(self._body)


class _AsyncReceived(_AsyncTransport):
    """A transport that has the reply already, on the event loop."""

    def __init__(self, transport: _AsyncTransport, body: bytes) -> None:
        super().__init__(transport._connections, transport._exchange)
        self._reply = transport._reply
        self._body = body

    async def __aenter__(self) -> _AsyncReceived:
        return self

    async def read(self) -> bytes:
        return self._exchange.body(self._body)


#: The replacements of the patch ``native_engines``.
REPLACEMENTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "dspy.clients.execution:LM15Engine": lambda _: Engine,
    "dspy.clients.execution:AsyncLM15Engine": lambda _: AsyncEngine,
}
