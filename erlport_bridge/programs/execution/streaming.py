"""Stream the events of a running call: pieces of its text fields as the model writes them, and its status.

Each event is a message ``{:dspex_stream, ref, event}`` to one process. At most ``buffer`` events are sent without being
acknowledged. A reader that acknowledges nothing stops the reading of the model's answer, and so the model: this is the
stream's back-pressure.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import dspy
from dspy.utils.callback import BaseCallback

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES, size_of
from erlport_bridge.port import elixir
from erlport_bridge.programs.execution.chat_sections import ChatSections
from erlport_bridge.programs.modules import public_name
from erlport_bridge.programs.options import IntegerOption, Vocabulary
from erlport_bridge.programs.pipelines import Pipeline
from erlport_bridge.programs.text.chat_text import Names
from erlport_bridge.programs.values import plain
from erlport_bridge.request import asking
from erlport_bridge.term import Atom, OtpErlangPid, Term, encode, shown
from erlport_bridge.tracing import current

#: The tag of the messages.
MESSAGE: Final = Atom("dspex_stream")
_DEFAULT_BUFFER: Final = 64
#: The options of a stream besides the options of its call.
STREAM_OPTIONS: Final = Vocabulary(
    IntegerOption(
        name="buffer",
        default=_DEFAULT_BUFFER,
        minimum=1,
        maximum=10_000,
        description="most events that are sent without being acknowledged",
    )
)
# A status event sent at once would wake its reader while the request to the model is being written, and take 0.5 ms
# of CPU time from it on two cores.
_STATUS_DELAY_S: Final = 0.001

# The open streams by their encoded reference, since Python cannot hash every term.
_streams: dict[bytes, EventStream] = {}


@contextlib.contextmanager
def opened(reply_to: object, ref: Term, buffer: int = _DEFAULT_BUFFER) -> Iterator[EventStream]:
    """Open a stream of events for as long as its call lasts; to be used in a coroutine.

    Args:
        reply_to: The process that receives the events.
        ref: Any term; it stands in each event and each acknowledgement.
        buffer: The maximum number of events without an acknowledgement.

    Raises:
        OperationError: Of kind ``input``: an argument is invalid, or another stream has this reference. Of kind
            ``transport``: this process cannot send events.
    """
    if not elixir.is_connected():
        message = (
            "a stream needs a port of `python -m erlport_bridge`; ErlPort's own Python half runs one call at a time"
        )
        raise OperationError("transport", message)
    if not isinstance(reply_to, OtpErlangPid):
        raise OperationError("input", f"expected a pid at reply_to, got {shown(reply_to)}", path="reply_to")
    # Each event carries it.
    ID_BYTES.check(size_of(ref, ID_BYTES.most), "ref")
    key = encode(ref)
    stream = EventStream(reply_to, ref, buffer)
    if _streams.setdefault(key, stream) is not stream:
        raise OperationError("input", f"expected a ref of its own for each stream, got {shown(ref)} again", path="ref")
    try:
        yield stream
    finally:
        del _streams[key]
        stream.close()


def acknowledge(ref: Term, count: object) -> bool:
    """Acknowledge ``count`` events of a stream; return whether the stream is still open.

    Returns quickly, and may be called from any thread.

    Raises:
        OperationError: Of kind ``input``: ``count`` is not a positive integer.
    """
    if type(count) is not int or count < 1:
        raise OperationError("input", f"expected a positive integer at count, got {shown(count)}", path="count")
    stream = _streams.get(encode(ref))
    if stream is None:
        return False
    stream.acknowledge(count)
    return True


def running() -> int:
    """Return the number of open streams."""
    return len(_streams)


class EventStream:
    """The events of one call, sent in order and with back-pressure from the reader."""

    def __init__(self, reply_to: OtpErlangPid, ref: Term, buffer: int) -> None:
        self._reply_to = reply_to
        self._ref = ref
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        # Protects all attributes below: acknowledgements and the events of tools come from other threads.
        self._lock = threading.Lock()
        self._unacknowledged = 0
        self._waiting: deque[Mapping[str, Term]] = deque()
        # Whether `_send_waiting` is scheduled.
        self._is_due = False
        self._room: asyncio.Future[None] | None = None
        self._is_closed = False

    async def send(self, event: Mapping[str, Term]) -> None:
        """Send an event, and wait until the reader has room for it."""
        while True:
            with self._lock:
                self._cast_waiting()
                if self._has_room():
                    self._cast(event)
                    return
                if self._room is None or self._room.done():
                    self._room = self._loop.create_future()
                room = self._room
            # Several tasks may wait for the same future; cancelling one of them must not cancel the others.
            await asyncio.shield(room)

    def offer(self, event: Mapping[str, Term]) -> None:
        """Send an event soon, if the reader has room, without waiting; may be called from any thread.

        At most ``buffer`` events wait; one more drops the oldest of them if the reader has no room.
        """
        with self._lock:
            if self._is_closed:
                return
            self._waiting.append(event)
            if len(self._waiting) > self._buffer:
                oldest = self._waiting.popleft()
                if self._unacknowledged < self._buffer:
                    self._cast(oldest)
            is_first, self._is_due = not self._is_due, True
        if is_first:
            self._loop.call_soon_threadsafe(self._loop.call_later, _STATUS_DELAY_S, self._send_waiting)

    @property
    def is_waiting(self) -> bool:
        """Return whether an event waits for the reader."""
        with self._lock:
            return self._room is not None and not self._room.done()

    def acknowledge(self, count: int) -> None:
        """Make room for ``count`` more events; may be called from any thread."""
        with self._lock:
            self._unacknowledged = max(0, self._unacknowledged - count)
            self._cast_waiting()
            room = self._room
        if room is not None:
            self._loop.call_soon_threadsafe(_wake, room)

    def close(self) -> None:
        """Stop sending; a thread that cannot be cancelled may still call :meth:`offer`, without effect."""
        with self._lock:
            self._cast_waiting()
            self._is_closed = True
            self._waiting.clear()

    def _send_waiting(self) -> None:
        with self._lock:
            self._is_due = False
            self._cast_waiting()

    def _cast_waiting(self) -> None:
        while self._waiting and self._unacknowledged < self._buffer:
            self._cast(self._waiting.popleft())

    def _has_room(self) -> bool:
        return not self._waiting and self._unacknowledged < self._buffer

    def _cast(self, event: Mapping[str, Term]) -> None:
        # The result of an item is whole: others are run again without it.
        if event.get("type") != "result":
            asking.note(is_seen=True)
        elixir.cast(self._reply_to, (MESSAGE, self._ref, event))
        self._unacknowledged += 1


def _wake(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


class StreamCallback(BaseCallback):  # type: ignore[misc]
    """A callback of DSPy that reports one call to a stream.

    Args:
        events: The stream.
        module: The module that runs.
        reads_chat: The model writes in pieces, in the format of ``ChatAdapter``.
    """

    def __init__(self, events: EventStream, module: Pipeline, *, reads_chat: bool) -> None:
        self._events = events
        self._pieces: dict[str, list[str]] = {}
        self._listeners: list[_Listener] = []
        # By the identity of the predictor whose completion they parse.
        self._sections: dict[int, ChatSections] = {}
        # By the same identity: the names of the fields in the prediction.
        self._names: dict[int, Mapping[str, Term]] = {}
        for stage, built, names in zip(module.stages, module.modules, module.shown_fields(), strict=True):
            # A module in a thread would block that thread until the reader has room, and cannot be cancelled there.
            if reads_chat and stage.is_streamed and names:
                self._listen(built, names)

    def _listen(self, module: dspy.Module, names: Mapping[str, Term]) -> None:
        # The predictor whose outputs are the module's fields; other predictors of an agent decide its steps.
        predictor = max(module.predictors(), key=lambda item: len(names.keys() & item.signature.output_fields.keys()))
        fields = predictor.signature.output_fields
        texts = {name for name in names.keys() & fields.keys() if fields[name].annotation is str}
        names_of_all = Names.of(fields, predictor.signature.input_fields)
        self._sections[id(predictor)] = ChatSections(texts, names_of_all)
        self._names[id(predictor)] = names
        self._listeners.append(_Listener(predictor))

    def settings(self) -> dict[str, Any]:
        """Return the settings of DSPy that route the model's text to :meth:`send`."""
        # Without a listener DSPy would send the text of every predictor.
        return {"send_stream": self, "stream_listeners": self._listeners} if self._listeners else {}

    async def send(self, chunk: Any) -> None:
        """Process a part of the model's answer; DSPy reads no further until this returns."""
        _note_first_text()
        sections = self._sections.get(chunk.predict_id)
        choice = next((choice for choice in chunk.choices if choice.index == 0), None)
        if sections is None or choice is None:
            return
        pieces = sections.receive(choice.delta.content or "")
        if choice.finish_reason is not None:
            pieces += sections.end()
            # Further text belongs to another completion (`n`); the prediction has the first one.
            del self._sections[chunk.predict_id]
        for name, text in pieces:
            await self._send_piece(self._names[chunk.predict_id][name], text)

    async def finish(self, prediction: dspy.Prediction) -> None:
        """Send the rest of the text fields; if the model does not write in pieces, their whole text."""
        for name, value in prediction.items():
            text = plain(value, f'["{name}"]')
            sent = "".join(self._pieces.get(name, ()))
            if isinstance(text, str) and text.startswith(sent) and len(text) > len(sent):
                await self._send_piece(name, text[len(sent) :])

    async def _send_piece(self, name: str, text: str) -> None:
        self._pieces.setdefault(name, []).append(text)
        # Half a character cannot be sent; the whole answer is refused for it, as an answer that does not stream is.
        whole = text if text.isascii() else text.encode(errors="replace").decode()
        await self._events.send({"type": "chunk", "field": name, "text": whole})

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Report that a module begins."""
        name = public_name(instance)
        if name is not None and not isinstance(instance, Pipeline):
            self._report("module", name)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Report that a model is called."""
        self._report("model", instance.model)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Report that a tool is called."""
        # ReAct ends with a tool of this name; a caller's tool cannot have it.
        if instance.name != "finish":
            self._report("tool", instance.name)

    def _report(self, stage: str, name: str) -> None:
        self._events.offer({"type": "status", "stage": stage, "name": name})


def _note_first_text() -> None:
    """Record when the first text of the current request to a model came."""
    span = current()
    if span is not None and "first_token_us" not in span.attributes:
        span.set(first_token_us=span.since_start_us())


class _Listener(NamedTuple):
    """A listener that tells DSPy which predictor's text to send, like DSPy's ``StreamListener``; it reads nothing."""

    predict: dspy.Predict
