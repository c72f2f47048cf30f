"""What the other side says of calls that run: that nobody waits for one, or that there is room for its events."""

from __future__ import annotations

from erlport_bridge import request
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs.execution import streaming
from erlport_bridge.programs.models import elixir_model
from erlport_bridge.programs.text import arguments


@operation
async def cancel(request_id: object) -> int:
    """Cancel the calls that were given this ``request_id``; answers how many there were. Each is answered as well."""
    return request.cancel(arguments.text(request_id, "request_id"))


@operation
def stream_ack(ref: object, count: object) -> bool:
    """Give a stream room for ``count`` more events; answers ``false`` if it runs no more."""
    return streaming.acknowledge(ref, count)


@operation
async def model_piece(token: object, text: object) -> bool:
    """Take the next piece of the answer of a model that is a function of Elixir; answers ``false`` if it is not wanted.

    Answers when there is room for another one.
    """
    return await elixir_model.take_piece(arguments.text(token, "token"), arguments.text(text, "text"))
