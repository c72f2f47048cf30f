"""Frames and messages of the port, without any input or output.

A *frame* is a length of 1, 2 or 4 bytes (big-endian, ``{packet, N}`` on the Erlang side) and that many bytes: one
external term, a *message*. Towards Python come ``{'C', Id, Module, Function, Args}`` (a call), ``{'M', Term}`` (a
message that expects no answer) and ``{'r', Id, Result}`` / ``{'e', Id, Reason}`` (answers to calls that Python made).
Towards Erlang go ``{'r', Id, Result}`` and ``{'e', Id, {python, Class, Message, Traceback}}``, ``{'M', Pid, Term}`` (a
message for a process) and ``{'C', Id, Module, Function, Args, 'N'}`` (a call, made by a process that is there for it).

The protocol is ErlPort's (https://github.com/erlport/erlport), so that either half can be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from erlport_bridge.errors import DecodeError, EncodeError, ProtocolError
from erlport_bridge.term import PACKET_SIZES, Atom, OtpErlangPid, decode, decode_elements, encode
from erlport_bridge.term.inspecting import shown

_RESULT: Final = Atom("r")
_FAILURE: Final = Atom("e")
_PYTHON: Final = Atom("python")
_CALL: Final = Atom("C")
_MESSAGE: Final = Atom("M")
# ErlPort's Erlang half makes such a call in a process of its own, and not in the one that owns the port.
_NEW_PROCESS: Final = Atom("N")


class FrameReader:
    """Cuts a stream of bytes into frames.

    Args:
        packet: Size of a frame's length: 1, 2 or 4 bytes.
    """

    def __init__(self, packet: int) -> None:
        if packet not in PACKET_SIZES:
            raise ValueError(f"expected a packet size of 1, 2 or 4, got {packet!r}")
        self._packet = packet
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the stream, in pieces of any size; give each frame that they complete.

        The frames come without their lengths. Bytes of a frame that is not complete yet are kept.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= self._packet:
            frame_start = start + self._packet
            frame_end = frame_start + int.from_bytes(buffer[start:frame_start], "big")
            if len(buffer) < frame_end:
                break
            with memoryview(buffer) as view:
                frame = bytes(view[frame_start:frame_end])
            start = frame_end
            yield frame
        if start:
            del buffer[:start]

    @property
    def pending_bytes(self) -> int:
        """How many bytes of an incomplete frame have come: more than 0 at the end of the stream means it was cut."""
        return len(self._buffer)


@dataclass(frozen=True)
class Call:
    """``{'C', Id, Module, Function, Args}``: the other side waits for an answer with this id."""

    id: int
    module: str
    function: str
    arguments: list[Any]


@dataclass(frozen=True)
class UnreadableCall:
    """A call whose arguments are no terms that Python can hold; it is owed an answer all the same."""

    id: int
    module: str
    function: str
    error: DecodeError


@dataclass(frozen=True)
class Message:
    """``{'M', Term}``: a cast, or a stray message of the process that owns the port under ErlPort."""

    term: Any


@dataclass(frozen=True)
class Result:
    """``{'r', Id, Value}``: what a call returned."""

    id: int
    value: Any


@dataclass(frozen=True)
class Failure:
    """``{'e', Id, {python, Class, Message, Traceback}}``: what a call raised."""

    id: int
    type: str
    message: str
    traceback: list[str]


@dataclass(frozen=True)
class ElixirCall:
    """``{'C', Id, Module, Function, Args, 'N'}``: a call of a function over there; its answer has this id."""

    id: int
    module: str
    function: str
    arguments: list[Any]


@dataclass(frozen=True)
class ElixirMessage:
    """``{'M', Pid, Term}``: a term for a process over there."""

    pid: OtpErlangPid
    term: Any


@dataclass(frozen=True)
class ElixirAnswer:
    """``{'r', Id, Result}`` or ``{'e', Id, Reason}``: what an :class:`ElixirCall` gave, or why it failed."""

    id: int
    value: Any
    failed: bool


def parse_message(message: bytes) -> Call | UnreadableCall | Message | ElixirAnswer:
    """Read one message from the other side.

    Raises:
        DecodeError: The bytes are no term, and not even the head of a call can be made out.
        ProtocolError: They are a term that is no message of the protocol.
    """
    try:
        term = decode(message)
    except DecodeError as error:
        return _unreadable_call(message, error)
    match term:
        case ("C", int(call_id), str(module), str(function), list(arguments)):
            return Call(call_id, module, function, arguments)
        case ("M", payload):
            return Message(payload)
        case ("r" | "e" as name, int(call_id), value):
            return ElixirAnswer(call_id, value, failed=name == "e")
    raise ProtocolError(f"expected a call or a message, got {shown(term)}")


def _unreadable_call(message: bytes, error: DecodeError) -> UnreadableCall:
    """Make out who is owed the answer; raises the error itself where nobody can be."""
    try:
        head = decode_elements(message, 4)
    except DecodeError:
        raise error from None
    match head:
        case ("C", int(call_id), str(module), str(function)):
            # The caller knows the arguments, not the envelope around them.
            path = error.path.replace("[4]", "arguments", 1)
            return UnreadableCall(call_id, module, function, DecodeError(error.reason, error.offset, path))
    raise error


def encode_message(
    message: Result | Failure | ElixirCall | ElixirMessage, *, packet: int, compressed: int = 0
) -> bytes:
    """Write one message to the other side, with its frame.

    Args:
        message: An answer.
        packet: Size of the frame's length: 1, 2 or 4 bytes.
        compressed: zlib's level from 0 (not compressed) to 9.

    Raises:
        EncodeError: The value of a :class:`Result` holds something that is no term (its path is counted from the
            value), or the message is longer than a length of ``packet`` bytes can say.
    """
    match message:
        case Result(id=call_id, value=value):
            try:
                return encode((_RESULT, call_id, value), packet=packet, compressed=compressed)
            except EncodeError as error:
                # The caller knows the value, not the envelope around it.
                raise EncodeError(error.reason, error.path.removeprefix("[2]")) from None
        case Failure():
            # Unlike ErlPort: text goes out as binaries, not as charlists.
            reason = (_PYTHON, Atom(message.type), message.message, message.traceback)
            return encode((_FAILURE, message.id, reason), packet=packet, compressed=compressed)
        case ElixirCall():
            term = (_CALL, message.id, Atom(message.module), Atom(message.function), message.arguments, _NEW_PROCESS)
            return encode(term, packet=packet, compressed=compressed)
        case ElixirMessage():
            return encode((_MESSAGE, message.pid, message.term), packet=packet, compressed=compressed)
