"""Encode the result or the exception of a call as the frame of its answer; every call gets an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from erlport_bridge.errors import EncodeError, message_of, traceback_lines
from erlport_bridge.limits import ANSWER_BYTES
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

# Longest text of an error answer where nothing longer fits: two texts and the rest are less than 255 bytes.
_SHORT_BYTES: Final = 100


def failed_answer(
    call_id: int, function: Callable[..., Any] | None, error: BaseException, lost: object = None
) -> Result | Failure:
    """Return the answer for an exception.

    If the function has an attribute ``failure_term``, the answer is the value that it returns for the exception and for
    the result ``lost`` that could not be sent. Otherwise the exception is raised on the other side, as under ErlPort.
    """
    try:
        failure_term = getattr(function, "failure_term", None)
        if failure_term is not None:
            return Result(call_id, failure_term(error, lost))
    except BaseException as raised:  # noqa: BLE001 - the call is pending: it gets at least the general answer below
        sys.stderr.write(f"erlport_bridge: cannot tell a failure as a term: {message_of(raised)}\n")
    return Failure(call_id, _class_name(error), message_of(error), traceback_lines(error))


class AnswerEncoder:
    """The encoder of one port's messages.

    Args:
        packet: Size of a frame's length prefix: 1, 2 or 4 bytes.
        compressed: zlib's level, 0 to 9.
        max_bytes: The largest message, without its length prefix.
    """

    def __init__(self, packet: int, compressed: int, max_bytes: int = ANSWER_BYTES.default) -> None:
        self._packet = packet
        self._compressed = compressed
        self._max_bytes = max_bytes

    def encoded(self, answer: Result | Failure, function: Callable[..., Any] | None = None) -> Frame:
        """Encode an answer as a frame; an answer that cannot be encoded, or is too long, becomes an error answer."""
        if isinstance(answer, Result):
            return self.result(answer.id, answer.value, function)
        try:
            return self.framed(answer)
        except BaseException as error:  # noqa: BLE001 - a call whose answer cannot be encoded is still pending
            return self._framed_failure(answer, error)

    def result(self, call_id: int, value: object, function: Callable[..., Any] | None) -> Frame:
        """Encode the value that a function returned as a frame; if that fails, encode an error answer."""
        try:
            return self._checked(encode_result(call_id, value, packet=self._packet, compressed=self._compressed))
        except BaseException as error:  # noqa: BLE001 - a call whose answer cannot be encoded is still pending
            return self._framed_failure(failed_answer(call_id, function, error, value), error)

    def framed(self, message: Result | Failure | ElixirCall | ElixirMessage | LogEntries | Recycling) -> Frame:
        """Encode a message as a frame; raise as :func:`~.protocol.encode_message` does."""
        return self._checked(encode_message(message, packet=self._packet, compressed=self._compressed))

    def _checked(self, frame: Frame) -> Frame:
        """Return a frame, unless it exceeds the limit: Elixir would get memory for it as a whole."""
        size = sum(map(len, frame)) - self._packet
        if size > self._max_bytes:
            error = ANSWER_BYTES.error("the answer", size, most=self._max_bytes)
            raise EncodeError(error.message)
        return frame

    def _framed_failure(self, failure: Result | Failure, error: BaseException) -> Frame:
        try:
            return self.framed(failure)
        except BaseException:  # noqa: BLE001 - a details map or a traceback may not fit into a frame of 255 bytes
            if isinstance(failure, Failure):
                name, message = failure.type, failure.message
            else:
                name, message = _class_name(error), message_of(error)
            return self.framed(Failure(failure.id, _cut(name), _cut(message), []))


def _class_name(error: BaseException) -> str:
    # It is sent as an atom.
    return f"{type(error).__module__}.{type(error).__qualname__}"[:MAX_ATOM_CHARACTERS]


def _cut(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[:_SHORT_BYTES].decode(errors="ignore")
