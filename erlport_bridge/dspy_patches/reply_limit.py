"""Bound the bytes of a provider's reply while they are read: DSPy's client reads a reply of any size into memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from erlport_bridge.limits import REPLY_BYTES, most_reply_bytes


def large_events(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in for ``parse_sse`` that takes events as large as a whole reply, and not of 64 KiB at most."""

    def parsed(lines: Any) -> Any:
        most = REPLY_BYTES.most
        return parse(lines, max_line_bytes=most, max_event_bytes=most)

    return parsed


def bounded_async(read: Callable[[Any], AsyncIterator[bytes]]) -> Callable[[Any], AsyncIterator[bytes]]:
    """Return a stand-in for ``AsyncTransportResponse._iter`` that ends beyond the limit."""

    async def bounded(response: Any) -> AsyncIterator[bytes]:
        chunks, most, size = read(response), _most(response), 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                _check(size, most)
                yield chunk
        finally:
            # The connection is closed at once, not when the garbage collector finds the generator.
            await chunks.aclose()  # type: ignore[attr-defined]

    return bounded


def bounded_sync(read: Callable[[Any], Iterator[bytes]]) -> Callable[[Any], Iterator[bytes]]:
    """Return a stand-in for ``TransportResponse.__iter__`` that ends beyond the limit."""

    def bounded(response: Any) -> Iterator[bytes]:
        chunks, most, size = read(response), _most(response), 0
        try:
            for chunk in chunks:
                size += len(chunk)
                _check(size, most)
                yield chunk
        finally:
            chunks.close()  # type: ignore[attr-defined]

    return bounded


def _most(response: Any) -> int:
    return most_reply_bytes(response.header("content-type"))


def _check(size: int, most: int) -> None:
    if size > most:
        raise REPLY_BYTES.error("the model's reply", most=most)
