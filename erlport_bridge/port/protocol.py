"""The messages of the port, without any input or output.

A message is one external term, and stands in one frame. Towards Python come ``{'C', Id, Module, Function, Args}`` (a
call), ``{'M', Term}`` (a message that expects no answer) and ``{'r', Id, Result}`` / ``{'e', Id, Reason}`` (answers to
calls that Python made). Towards Erlang go ``{'r', Id, Result}`` and ``{'e', Id, {python, Class, Message, Traceback}}``,
``{'M', Pid, Term}`` (a message for a process) and ``{'C', Id, Module, Function, Args, 'N'}`` (a call, made by a process
that is there for it), and ``{'L', Dropped, Entries}`` (for the log) and ``{'R', Reason}`` (asks for another process in
place of this one) if it has asked for such.

The protocol is ErlPort's (https://github.com/erlport/erlport), so that either half can be replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from erlport_bridge.errors import DecodeError, EncodeError, ProtocolError
from erlport_bridge.term import Atom, Buffer, OtpErlangPid, decode, decode_elements, encode_frame, shown

_RESULT: Final = Atom("r")
_FAILURE: Final = Atom("e")
_PYTHON: Final = Atom("python")
_CALL: Final = Atom("C")
_MESSAGE: Final = Atom("M")
_LOG: Final = Atom("L")
_RECYCLING: Final = Atom("R")
# ErlPort's Erlang half makes such a call in a process of its own, and not in the one that owns the port.
_NEW_PROCESS: Final = Atom("N")

#: The id of calls that only ask whether Python still reads; ids of other calls begin at 1. ErlPort makes no such call.
HEARTBEAT_ID: Final = 0


#: The bytes of a message, with their length before them, in parts that follow each other.
Frame: TypeAlias = list[bytes | memoryview]


class Call(NamedTuple):
    """``{'C', Id, Module, Function, Args}``: the other side waits for an answer with this id."""

    id: int
    module: str
    function: str
    arguments: list[Any]


# What the class itself does, but for the arguments' names, in a third of the time.
_make_call: Final[Callable[[tuple[Any, ...]], Call]] = partial(tuple.__new__, Call)


class UnreadableCall(NamedTuple):
    """A call whose arguments are no terms that Python can hold; it is owed an answer all the same."""

    id: int
    module: str
    function: str
    error: DecodeError


class Message(NamedTuple):
    """``{'M', Term}``: a cast, or a stray message of the process that owns the port under ErlPort."""

    term: Any


class Cancel(NamedTuple):
    """``{'M', {'$cancel', Id}}``: nobody waits any more for the answer to the call with this id. Not ErlPort's."""

    id: int


class Result(NamedTuple):
    """``{'r', Id, Value}``: what a call returned."""

    id: int
    value: Any


class Failure(NamedTuple):
    """``{'e', Id, {python, Class, Message, Traceback}}``: what a call raised."""

    id: int
    type: str
    message: str
    traceback: list[str]


class ElixirCall(NamedTuple):
    """``{'C', Id, Module, Function, Args, 'N'}``: a call of a function over there; its answer has this id."""

    id: int
    module: str
    function: str
    arguments: list[Any]


class ElixirMessage(NamedTuple):
    """``{'M', Pid, Term}``: a term for a process over there."""

    pid: OtpErlangPid
    term: Any


class LogEntry(NamedTuple):
    """``{Level, Logger, RequestId, Text}``: one entry of the other side's log."""

    level: str
    logger: str
    request_id: str | None
    text: str


class LogEntries(NamedTuple):
    """``{'L', Dropped, Entries}``: entries for the log, and how many there was no room for. Not ErlPort's."""

    dropped: int
    entries: list[LogEntry]


class Recycling(NamedTuple):
    """``{'R', Reason}``: this process works on, and should be replaced by another one. Not ErlPort's."""

    reason: str


class ElixirAnswer(NamedTuple):
    """``{'r', Id, Result}`` or ``{'e', Id, Reason}``: what an :class:`ElixirCall` gave, or why it failed."""

    id: int
    value: Any
    failed: bool


def parse_message(message: Buffer) -> Call | UnreadableCall | Message | Cancel | ElixirAnswer:
    """Read one message from the other side.

    Raises:
        DecodeError: The bytes are no term, and not even the head of a call can be made out.
        ProtocolError: They are a term that is no message of the protocol.
    """
    try:
        term = decode(message)
    except DecodeError as error:
        return _unreadable_answer(message, error) or _unreadable_call(message, error)
    # Not one of the patterns below: matching takes 2 us, as long as all the rest of a small call.
    if type(term) is tuple and len(term) == 5 and term[0] is _CALL:
        _, call_id, module, function, arguments = term
        if type(call_id) is int and type(module) is type(function) is Atom and type(arguments) is list:
            return _make_call((call_id, module, function, arguments))
    match term:
        case ("M", ("$cancel", int(call_id))):
            return Cancel(call_id)
        case ("M", payload):
            return Message(payload)
        case ("r" | "e" as name, int(call_id), value):
            return ElixirAnswer(call_id, value, failed=name == "e")
    raise ProtocolError(f"expected a call or a message, got {shown(term)}")


def _unreadable_answer(message: Buffer, error: DecodeError) -> ElixirAnswer | None:
    """Make out which of our calls is answered by a term that Python cannot hold: it has failed, and must not wait."""
    try:
        head = decode_elements(message, 2)
    except DecodeError:
        return None
    match head:
        case ("r" | "e", int(call_id)):
            # The function's caller knows its result, not the envelope around it, nor its bytes.
            path = error.path.removeprefix("[2]")
            reason = f"the result cannot be read: {error.reason}" + (f" at {path}" if path else "")
            return ElixirAnswer(call_id, reason, failed=True)
    return None


def _unreadable_call(message: Buffer, error: DecodeError) -> UnreadableCall:
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


def encode_result(call_id: int, value: object, *, packet: int, compressed: int = 0) -> Frame:
    """Write a :class:`Result` as a frame; as :func:`encode_message`, for all that most calls need."""
    try:
        return encode_frame((_RESULT, call_id, value), packet=packet, compressed=compressed)
    except EncodeError as error:
        # The caller knows the value, not the envelope around it.
        raise EncodeError(error.reason, error.path.removeprefix("[2]")) from None


def encode_message(
    message: Result | Failure | ElixirCall | ElixirMessage | LogEntries | Recycling,
    *,
    packet: int,
    compressed: int = 0,
) -> Frame:
    """Write one message to the other side, as a frame with its length.

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
            return encode_result(call_id, value, packet=packet, compressed=compressed)
        case Failure():
            # Unlike ErlPort: text goes out as binaries, not as charlists.
            raised = (_PYTHON, Atom(message.type), message.message, message.traceback)
            return encode_frame((_FAILURE, message.id, raised), packet=packet, compressed=compressed)
        case ElixirCall():
            term = (_CALL, message.id, Atom(message.module), Atom(message.function), message.arguments, _NEW_PROCESS)
            return encode_frame(term, packet=packet, compressed=compressed)
        case ElixirMessage():
            return encode_frame((_MESSAGE, message.pid, message.term), packet=packet, compressed=compressed)
        case LogEntries():
            entries = [(Atom(entry.level), entry.logger, entry.request_id, entry.text) for entry in message.entries]
            return encode_frame((_LOG, message.dropped, entries), packet=packet, compressed=compressed)
        case Recycling(reason=reason):
            return encode_frame((_RECYCLING, reason), packet=packet, compressed=compressed)
