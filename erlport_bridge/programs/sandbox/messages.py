"""Read and check the messages of a sandbox: one JSON object a line, which code in the sandbox can forge.

The code shares its output with DSPy's runner, so whatever comes may be of any size and shape. Nothing unchecked passes
to DSPy, which takes the fields of a message without a look at their types.
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO, Final

#: The most bytes of one message: a printed output, the arguments of a tool, a tool's result. To decode so much text
#: takes 5 ms, in which no other thread runs, and two million numbers 0.2 s.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
# A list or map costs many times its text to decode.
_MAX_CONTAINERS: Final = 200_000
_MAX_DEPTH: Final = 100
_CHUNK_BYTES: Final = 65_536


class MessageError(Exception):
    """What a sandbox wrote is no message of its protocol, or is too long; the text says why."""


class Lines:
    """The lines of a pipe, of a bounded length.

    Args:
        pipe: A buffered binary pipe; it may be closed by its owner after the last read.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._read = bytearray()

    def next(self) -> bytes:
        r"""Wait for a line and return it with its ``\n``; at the end of the pipe return what is left, then ``b""``.

        Raises:
            MessageError: The line is longer than ``MAX_MESSAGE_BYTES``.
        """
        searched = 0
        while (end := self._read.find(b"\n", searched)) < 0:
            searched = len(self._read)
            if searched > MAX_MESSAGE_BYTES:
                self._read.clear()
                raise MessageError(f"it wrote more than {MAX_MESSAGE_BYTES} bytes at once; print less")
            chunk = self._pipe.read1(_CHUNK_BYTES)  # type: ignore[attr-defined]
            if not chunk:
                end = len(self._read) - 1
                break
            self._read += chunk
        line = bytes(self._read[: end + 1])
        del self._read[: end + 1]
        return line


def read_message(line: bytes) -> dict[str, Any] | None:
    """Return the message of a line; ``None``: the line is text that was printed past the protocol.

    Raises:
        MessageError: The line is not UTF-8, or a message of another shape than DSPy's runner writes.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise MessageError(f"it wrote bytes that are no UTF-8: {error.reason}") from None
    if not text.startswith("{"):
        return None
    if line.count(b"[") + line.count(b"{") > _MAX_CONTAINERS:
        raise MessageError(f"it sent more than {_MAX_CONTAINERS} lists and maps at once")
    try:
        message = json.loads(text, parse_constant=_refused)
    except json.JSONDecodeError:
        return None
    except RecursionError:
        raise MessageError(f"it sent data of more than {_MAX_DEPTH} levels") from None
    except ValueError:
        raise MessageError("it sent a number of more digits than can be read") from None
    # First the depth: from Python 3.14 on `json` reads more levels than `repr` may write for an error of the shape.
    checked: dict[str, Any] = _checked(message, 0)
    _check_shape(checked)
    return checked


def _refused(constant: str) -> Any:
    raise MessageError(f"it sent {constant}, which is no JSON")


def _check_shape(message: dict[str, Any]) -> None:
    """Raise ``MessageError`` unless each part that DSPy reads has its type."""
    if "id" in message:
        _expect(message["id"], "id", str, type(None))
    if "method" in message:
        _expect(message["method"], "method", str)
        if "params" in message or "id" in message:
            _expect(message.get("params"), "params", dict)
        if message["method"] == "tool_call":
            _expect(message.get("id"), "id", str)
            _expect(message["params"].get("name"), "params.name", str)
            _expect(message["params"].get("kwargs"), "params.kwargs", dict)
    elif "result" in message:
        _expect(message["result"], "result", dict)
    elif "error" in message:
        _check_error(message["error"])
    else:
        raise MessageError("expected a method, a result or an error in its message")


def _check_error(error: Any) -> None:
    _expect(error, "error", dict)
    _expect(error.get("code"), "error.code", int)
    _expect(error.get("message"), "error.message", str)
    if "data" in error:
        _expect(error["data"], "error.data", dict)
        _expect(error["data"].get("type", ""), "error.data.type", str)


_NAMES: Final = {dict: "a map", str: "a string", int: "an integer", type(None): "null"}


def _expect(value: Any, place: str, *types: type) -> None:
    if not isinstance(value, types) or isinstance(value, bool):
        expected = " or ".join(_NAMES[cls] for cls in types)
        raise MessageError(f"expected {expected} at {place} of its message, got {value!r:.100}")


def _checked(value: Any, depth: int) -> Any:
    """Return a value with whole characters in its texts; JSON can have half a surrogate pair."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError("it sent a number that is too large")
    if isinstance(value, list | dict) and depth >= _MAX_DEPTH:
        raise MessageError(f"it sent data of more than {_MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_checked(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_checked(key, depth + 1): _checked(item, depth + 1) for key, item in value.items()}
    return value
