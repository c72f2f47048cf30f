"""Parse and encode the messages of the port, without any I/O.

A message is one external term in one frame. From Erlang to Python:

* ``{'C', Id, Module, Function, Args}``: a call;
* ``{'M', Term}``: a message that expects no answer;
* ``{'r', Id, Result}`` or ``{'e', Id, Reason}``: the answer to a call that Python made.

From Python to Erlang:

* ``{'r', Id, Result}`` or ``{'e', Id, {python, Class, Message, Traceback}}``: the answer to a call;
* ``{'M', Pid, Term}``: a message for a process;
* ``{'C', Id, Module, Function, Args, 'N'}``: a call, which runs in a process of its own;
* ``{'L', Dropped, Entries}``: entries for the log, if the Erlang side has asked for them;
* ``{'R', Reason}``: a request to replace this process by another, if the Erlang side has asked for such requests.

The protocol is ErlPort's (https://github.com/erlport/erlport), so that either half can be replaced.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from erlport_bridge.errors import DecodeError, EncodeError, OperationError, ProtocolError
from erlport_bridge.limits import REQUEST_BYTES
from erlport_bridge.port.frames import HEAD_BYTES, SkippedFrame
from erlport_bridge.term import Atom, Buffer, OtpErlangPid, decode, decode_elements, encode_frame, shown

_RESULT: Final = Atom("r")
_FAILURE: Final = Atom("e")
_PYTHON: Final = Atom("python")
_CALL: Final = Atom("C")
_ARGUMENT: Final = re.compile(r"arguments\[(\d+)\]")
_MESSAGE: Final = Atom("M")
_LOG: Final = Atom("L")
_RECYCLING: Final = Atom("R")
# The tag of a compressed term, which has no head that can be read without the rest.
_COMPRESSED: Final = 80
# ErlPort's Erlang half runs such a call in a new process, not in the port owner.
_NEW_PROCESS: Final = Atom("N")

#: The id of a heartbeat: a call that only checks whether Python still reads. Ids of other calls begin at 1. ErlPort
#: sends no heartbeats.
HEARTBEAT_ID: Final = 0


#: The bytes of a message, length prefix included, in consecutive parts.
Frame: TypeAlias = list[bytes | memoryview]


class Call(NamedTuple):
    """``{'C', Id, Module, Function, Args}``: the other side waits for an answer with this id."""

    id: int
    module: str
    function: str
    arguments: list[Any]


# The same as Call(...), without the names of its arguments, in a third of the time.
_make_call: Final[Callable[[tuple[Any, ...]], Call]] = partial(tuple.__new__, Call)


class UnreadableCall(NamedTuple):
    """A call whose arguments cannot be decoded, or are no list; it gets an error answer."""

    id: int
    module: str
    function: str
    error: DecodeError | OperationError

    def error_for(self, function: Callable[..., Any]) -> DecodeError | OperationError:
        """Return the error; that of a function that tells failures as terms names its parameter, not its number.

        A caller of an operation knows ``inputs``, neither ``arguments[2]`` nor the bytes of the term.
        """
        if not hasattr(function, "failure_term"):
            return self.error
        number = _ARGUMENT.match(self.error.path) if isinstance(self.error, DecodeError) else None
        if number is None or not isinstance(self.error, DecodeError):
            return self.error
        names = list(inspect.signature(function).parameters)
        if int(number[1]) >= len(names):
            return self.error
        path = names[int(number[1])] + self.error.path[number.end() :]
        return OperationError("input", f"{self.error.reason} at {path}", path=path)


class Message(NamedTuple):
    """``{'M', Term}``: a cast, or a stray message of the port owner under ErlPort."""

    term: Any


class Cancel(NamedTuple):
    """``{'M', {'$cancel', Id}}``: the cancellation of the call with this id. Not in ErlPort's protocol."""

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
    """``{'C', Id, Module, Function, Args, 'N'}``: a call of an Elixir function; its answer has this id."""

    id: int
    module: str
    function: str
    arguments: list[Any]


class ElixirMessage(NamedTuple):
    """``{'M', Pid, Term}``: a term for an Elixir process."""

    pid: OtpErlangPid
    term: Any


class LogEntry(NamedTuple):
    """``{Level, Logger, RequestId, Text}``, or with ``Caller`` behind: one entry of the other side's log."""

    level: str
    logger: str
    request_id: str | None
    text: str
    caller: str | None = None


class LogEntries(NamedTuple):
    """``{'L', Dropped, Entries}``: entries for the log, and the number of dropped ones. Not in ErlPort's protocol."""

    dropped: int
    entries: list[LogEntry]


class Recycling(NamedTuple):
    """``{'R', Kind, Reason}``: this process still works, but should be replaced. Not in ErlPort's protocol.

    Attributes:
        kind: Why, in one word: ``"threads"``, ``"memory"``, ``"calls"`` or ``"age"``.
        reason: The same as a sentence.
    """

    kind: str
    reason: str


class ElixirAnswer(NamedTuple):
    """``{'r', Id, Result}`` or ``{'e', Id, Reason}``: what an :class:`ElixirCall` returned, or why it failed."""

    id: int
    value: Any
    failed: bool


def parse_message(message: Buffer) -> Call | UnreadableCall | Message | Cancel | ElixirAnswer:
    """Parse one message from the other side.

    Raises:
        DecodeError: The bytes are no term, and not even the head of a call can be decoded.
        ProtocolError: The term is no message of the protocol.
    """
    try:
        term = decode(message)
    except DecodeError as error:
        return _unreadable(message, error)
    except MemoryError:
        return _unreadable(_head(message), _no_memory(len(message)))
    # Without a pattern of `match`, which takes 2 us: as long as all the rest of a small call.
    if type(term) is tuple and len(term) == 5 and term[0] is _CALL:
        _, call_id, module, function, arguments = term
        if type(call_id) is int and type(module) is type(function) is Atom and type(arguments) is list:
            return _make_call((call_id, module, function, arguments))
    match term:
        case ("C", int(call_id), *rest):
            return _malformed_call(call_id, rest)
        case ("M", ("$cancel", int(call_id))):
            return Cancel(call_id)
        case ("M", payload):
            return Message(payload)
        case ("r" | "e" as name, int(call_id), value):
            return ElixirAnswer(call_id, value, failed=name == "e")
    raise ProtocolError(f"expected a call or a message, got {shown(term)}")


def _malformed_call(call_id: int, rest: list[Any]) -> UnreadableCall:
    """Return a call that has an id, so that its caller is told what is wrong with the rest."""
    match rest:
        case (Atom() as module, Atom() as function, arguments):
            message = f"expected a list of arguments at arguments, got {shown(arguments)}"
            return UnreadableCall(call_id, module, function, OperationError("input", message, path="arguments"))
    message = f"expected a module, a function and a list of arguments in a call, got {shown(tuple(rest))}"
    return UnreadableCall(call_id, "", "", OperationError("input", message, path="arguments"))


def skipped_message(frame: SkippedFrame, max_bytes: int) -> UnreadableCall | ElixirAnswer:
    """Return the failed call or answer of a frame that was not kept.

    Raises:
        DecodeError: Not even the head of a call or answer can be decoded.
        OperationError: The frame is neither a call nor an answer.
    """
    if not frame.is_too_large:
        return _unreadable(frame.head, _no_memory(frame.size))
    return _unreadable(frame.head, REQUEST_BYTES.error("arguments", frame.size, most=max_bytes))


def _no_memory(size: int) -> OperationError:
    message = f"python has no memory for the {size} bytes at arguments; send less, or allow it more memory"
    return OperationError("overloaded", message, path="arguments", retryable=False)


def _head(message: Buffer) -> Buffer:
    """Return the beginning of a message, which has the id of a call, without a copy of the rest."""
    is_compressed = len(message) > 1 and message[1] == _COMPRESSED
    return message if is_compressed else bytes(memoryview(message)[:HEAD_BYTES])


def _unreadable(message: Buffer, error: DecodeError | OperationError) -> UnreadableCall | ElixirAnswer:
    """Return the call or the answer whose head can be decoded, but not its rest; otherwise raise ``error``."""
    try:
        head = decode_elements(message, 2)
        if head[0] == _CALL:
            head = decode_elements(message, 4)
    except (DecodeError, MemoryError):
        raise error from None
    match head:
        case ("r" | "e", int(call_id)):
            return ElixirAnswer(call_id, f"the result cannot be read: {_of_result(error)}", failed=True)
        case ("C", int(call_id), str(module), str(function)):
            if isinstance(error, DecodeError):
                # The caller knows the arguments, not the envelope around them.
                path = error.path.replace("[4]", "arguments", 1)
                error = DecodeError(error.reason, error.offset, path)
            return UnreadableCall(call_id, module, function, error)
    raise error


def _of_result(error: DecodeError | OperationError) -> str:
    if isinstance(error, OperationError):
        return error.message.replace(" at arguments", "")
    # The function's caller knows the result, but neither the envelope around it nor its bytes.
    path = error.path.removeprefix("[2]")
    return error.reason + (f" at {path}" if path else "")


def encode_result(call_id: int, value: object, *, packet: int, compressed: int = 0) -> Frame:
    """Encode a :class:`Result` as a frame: the most frequent case of :func:`encode_message`."""
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
    """Encode one message to the other side as a frame with its length prefix.

    Args:
        message: The message.
        packet: Size of the frame's length prefix: 1, 2 or 4 bytes.
        compressed: zlib's level from 0 (not compressed) to 9.

    Raises:
        EncodeError: A part of the value of a :class:`Result` cannot be encoded (the path starts at the value), or the
            message is too long for a length prefix of ``packet`` bytes.
    """
    match message:
        case Result(id=call_id, value=value):
            return encode_result(call_id, value, packet=packet, compressed=compressed)
        case Failure():
            # Unlike ErlPort: text is sent as binaries, not as charlists.
            raised = (_PYTHON, Atom(message.type), message.message, message.traceback)
            return encode_frame((_FAILURE, message.id, raised), packet=packet, compressed=compressed)
        case ElixirCall():
            term = (_CALL, message.id, Atom(message.module), Atom(message.function), message.arguments, _NEW_PROCESS)
            return encode_frame(term, packet=packet, compressed=compressed)
        case ElixirMessage():
            return encode_frame((_MESSAGE, message.pid, message.term), packet=packet, compressed=compressed)
        case LogEntries():
            entries = [(Atom(entry.level), *entry[1 : 5 if entry.caller else 4]) for entry in message.entries]
            return encode_frame((_LOG, message.dropped, entries), packet=packet, compressed=compressed)
        case Recycling(kind=kind, reason=reason):
            return encode_frame((_RECYCLING, kind, reason), packet=packet, compressed=compressed)
