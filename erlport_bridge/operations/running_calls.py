"""List and control running calls: cancel one, acknowledge a stream's events, or deliver a piece of a model's answer."""

from __future__ import annotations

from typing import Any, Final

from erlport_bridge import request
from erlport_bridge.limits import ID_BYTES
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs.execution import streaming
from erlport_bridge.programs.models import elixir_model
from erlport_bridge.programs.options import IntegerOption, Vocabulary
from erlport_bridge.programs.text import arguments

_OPTIONS: Final = Vocabulary(
    IntegerOption(name="n", default=100, minimum=1, maximum=10_000, description="how many, the oldest ones")
)


@operation
def running_calls(opts: object = None) -> list[dict[str, Any]]:
    """Answer the running calls, the oldest first.

    Each has ``operation``, ``request_id``, ``caller``, ``stage``, ``at_ms`` (the Unix time when this process began it)
    and ``age_ms`` (how long ago). ``opts``: ``n`` (100), how many.
    """
    return request.running.describe(_OPTIONS.read_all(opts)["n"])


@operation
async def cancel(request_id: object) -> int:
    """Cancel the calls that have this ``request_id``; answer their number. Each of the calls is answered too."""
    return request.cancel(arguments.text(request_id, "request_id", ID_BYTES))


@operation
def stream_ack(ref: object, count: object) -> bool:
    """Acknowledge ``count`` events of a stream; answer ``false`` if the stream is closed."""
    return streaming.acknowledge(ref, count)


@operation
async def model_piece(token: object, text: object) -> bool:
    """Deliver the next piece of an answer from a model that is a function of Elixir; answer ``false`` if unwanted.

    The answer comes when there is room for another piece (back-pressure).
    """
    return await elixir_model.take_piece(arguments.text(token, "token", ID_BYTES), arguments.text(text, "text"))
