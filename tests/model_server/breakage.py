"""Answers of status 200 that are none: each is the raw body, with its content type.

=========  ============================================================================================================
``ended``  the pieces of a stream without its last events
``begun``  the first events of a stream alone
``half``   some pieces, then a half event; half of a whole answer
``hello``  an event whose data is not JSON
``empty``  nothing
``page``   an HTML page
``plain``  a text, as proxies send it
``whole``  a whole answer, also to a request for a stream
``typed``  a stream as it should be, with the content type of JSON
``nodata`` a JSON object without any field that an answer has
``list``   a JSON list
``null``   the JSON null
``error``  a JSON object whose ``error`` is a text
=========  ============================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.model_server.wires import Wire

PAGE = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"


def written(event: Mapping[str, Any]) -> bytes:
    """Return a server-sent event; those of Anthropic's messages and OpenAI's responses have a name."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def broken(how: str, wire: Wire, body: dict[str, Any], pieces: Sequence[str], *, streams: bool) -> tuple[str, bytes]:
    """Return the content type and the body of a broken answer."""
    whole = json.dumps(body).encode()
    if how in ("page", "plain"):
        return ("text/html; charset=utf-8", PAGE) if how == "page" else ("text/plain", b"upstream connect error")
    texts = {"whole": whole, "nodata": b"{}", "list": b"[]", "null": b"null", "error": b'{"error": "overloaded"}'}
    if how in texts:
        return "application/json", texts[how]
    if not streams:
        cut = {"half": whole[: len(whole) // 2], "hello": b"data: hello\n\n", "empty": b""}
        return "application/json", cut.get(how, whole)
    first, last = wire.around(body)
    begun = b"".join(map(written, first))
    written_pieces = b"".join(written(wire.piece(body, piece)) for piece in pieces)
    if how == "typed":
        return "application/json", begun + written_pieces + b"".join(map(written, last)) + wire.ends_with
    half = written(wire.piece(body, pieces[0]))
    ends = {
        "ended": begun + written_pieces,
        "begun": begun,
        "half": begun + written_pieces + half[: len(half) // 2],
        "hello": b"data: hello\n\n",
        "empty": b"",
    }
    return "text/event-stream", ends[how]
