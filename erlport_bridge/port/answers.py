"""From what a call has come to, to the frame of its answer: whatever happens on the way, there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from erlport_bridge.errors import message_of, traceback_lines
from erlport_bridge.port.protocol import (
    ElixirCall,
    ElixirMessage,
    Failure,
    Frame,
    LogEntries,
    Recycling,
    Result,
    encode_message,
    encode_result,
)
from erlport_bridge.term import MAX_ATOM_CHARACTERS

# Of each text of an error answer when nothing longer fits: two of them, and the rest, are less than 255 bytes.
_SHORT_BYTES: Final = 100


def failed_answer(call_id: int, function: Callable[..., Any] | None, error: BaseException) -> Result | Failure:
    """Give the answer for an exception.

    A function that has an attribute ``failure_term`` says itself how its callers are told, as a returned value;
    any other raises on the other side, as under ErlPort.
    """
    try:
        failure_term = getattr(function, "failure_term", None)
        if failure_term is not None:
            return Result(call_id, failure_term(error))
    except BaseException as raised:  # noqa: BLE001 - the caller is owed an answer, if only the general one
        sys.stderr.write(f"erlport_bridge: cannot tell a failure as a term: {message_of(raised)}\n")
    return Failure(call_id, _class_name(error), message_of(error), traceback_lines(error))


class AnswerEncoder:
    """Makes frames of one port.

    Args:
        packet: Size of a frame's length: 1, 2 or 4 bytes.
        compressed: zlib's level, 0 to 9.
    """

    def __init__(self, packet: int, compressed: int) -> None:
        self._packet = packet
        self._compressed = compressed

    def encoded(self, answer: Result | Failure, function: Callable[..., Any] | None = None) -> Frame:
        """Give an answer as a frame; one that cannot be encoded, or does not fit its frame, becomes an error answer."""
        if isinstance(answer, Result):
            return self.result(answer.id, answer.value, function)
        try:
            return self.framed(answer)
        except BaseException as error:  # noqa: BLE001 - an answer that cannot be written is still owed
            return self._framed_failure(answer, error)

    def result(self, call_id: int, value: object, function: Callable[..., Any] | None) -> Frame:
        """Do the same for what a function has returned."""
        try:
            return encode_result(call_id, value, packet=self._packet, compressed=self._compressed)
        except BaseException as error:  # noqa: BLE001 - an answer that cannot be written is still owed
            return self._framed_failure(failed_answer(call_id, function, error), error)

    def framed(self, message: Result | Failure | ElixirCall | ElixirMessage | LogEntries | Recycling) -> Frame:
        """Give a message as a frame; raises as :func:`~.protocol.encode_message`."""
        return encode_message(message, packet=self._packet, compressed=self._compressed)

    def _framed_failure(self, failure: Result | Failure, error: BaseException) -> Frame:
        try:
            return self.framed(failure)
        except BaseException:  # noqa: BLE001 - it may be a details map or a traceback, and its frame one of 255 bytes
            if isinstance(failure, Failure):
                name, message = failure.type, failure.message
            else:
                name, message = _class_name(error), message_of(error)
            return self.framed(Failure(failure.id, _cut(name), _cut(message), []))


def _class_name(error: BaseException) -> str:
    # It goes out as an atom.
    return f"{type(error).__module__}.{type(error).__qualname__}"[:MAX_ATOM_CHARACTERS]


def _cut(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[:_SHORT_BYTES].decode(errors="ignore")
