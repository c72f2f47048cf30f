"""Keep the replies of a connection apart: DSPy's client takes what comes first for the reply to the next request.

An interim reply (HTTP 100, 103) ended the request, and the answer after it was the answer to the next request on that
connection, whoever made it. So was a reply that nobody had asked for: asyncio reads it into a buffer, where the check
of a kept connection does not look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from dspy._vendor.lm15.transports import TransportError

#: The statuses after which another reply follows; 101 is the last one of HTTP.
_INTERIM: Final = frozenset({*range(100, 200)} - {101})
_MOST_INTERIM: Final = 100


def unread_is_stale(is_stale: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a stand-in for ``_AsyncConnection.is_stale`` that also finds what was read and belongs to no request."""

    def stale(connection: Any) -> bool:
        reader = connection.reader
        return is_stale(connection) or bool(reader._buffer) or reader.at_eof()

    return stale


def last_head_async(read_head: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a stand-in for ``StdlibAsyncTransport._read_head`` that reads on after interim replies."""

    async def read(transport: Any, connection: Any, *, read_timeout: float) -> Any:
        reader = connection.reader
        try:
            for _ in range(_MOST_INTERIM):
                head = await read_head(transport, connection, read_timeout=read_timeout)
                if head.status not in _INTERIM:
                    return head
                connection.reader = _AfterAsync(reader, _rest(head, connection.reader))
        finally:
            connection.reader = reader
        raise _too_many()

    return read


def last_head_sync(read_head: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in for ``StdlibTransport._read_head`` that reads on after interim replies."""

    def read(transport: Any, connection: Any, *, read_timeout: float) -> Any:
        sock = connection.sock
        try:
            for _ in range(_MOST_INTERIM):
                head = read_head(transport, connection, read_timeout=read_timeout)
                if head.status not in _INTERIM:
                    return head
                connection.sock = _After(sock, _rest(head, connection.sock))
        finally:
            connection.sock = sock
        raise _too_many()

    return read


def _rest(head: Any, source: Any) -> bytes:
    """Return what was read after an interim reply."""
    return bytes(head.leftover) + (source.rest if isinstance(source, (_After, _AfterAsync)) else b"")


def _too_many() -> TransportError:
    return TransportError(f"the server sent {_MOST_INTERIM} interim replies (HTTP 1xx) and no answer")


class _After:
    """A socket from which some bytes were received already."""

    def __init__(self, sock: Any, rest: bytes) -> None:
        self._sock = sock
        self.rest = rest

    def settimeout(self, timeout: float) -> None:
        self._sock.settimeout(timeout)

    def recv(self, size: int) -> bytes:
        if not self.rest:
            return self._sock.recv(size)  # type: ignore[no-any-return]
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


class _AfterAsync:
    """A reader from which some bytes were read already."""

    def __init__(self, reader: Any, rest: bytes) -> None:
        self._reader = reader
        self.rest = rest

    async def read(self, size: int) -> bytes:
        if not self.rest:
            return await self._reader.read(size)  # type: ignore[no-any-return]
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken
