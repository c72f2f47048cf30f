"""The limits on what one call may bring, keep or cost, in one table, each with the error of a call that exceeds it.

A limit is checked before memory or time is spent on what exceeds it. Some limits are fixed. Others can be set, by an
environment variable of the port or by an option of the pool, which the error names. ``docs/operations.md`` has the same
table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from erlport_bridge.errors import OperationError

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

# In a stream, a few characters of text have an event of some hundred bytes around them, which is dropped at once.
_EVENTS_PER_TEXT: Final = 8
# What each part of a value counts at least.
_UNIT_BYTES: Final = 8
_NESTING: Final = (Mapping, list, tuple)


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        name: What is limited, as in the table of ``docs/operations.md``.
        default: The largest value that is accepted, unless :attr:`option` sets another one.
        unit: What is counted.
        kind: The kind of the error.
        option: The environment variable or the option of the pool that sets the limit; ``None``: it is fixed.
    """

    name: str
    default: int
    unit: str = "bytes"
    kind: str = "input"
    option: str | None = None

    @property
    def most(self) -> int:
        """The largest value that is accepted in this process.

        Raises:
            OperationError: Of kind ``input``: the environment variable is no positive integer.
        """
        if self.option is None or not self.option.startswith("DSPEX_"):
            return self.default
        text = os.environ.get(self.option)
        if text is None:
            return self.default
        if not text.isascii() or not text.isdecimal() or len(text) > _MAX_DIGITS or int(text) == 0:
            message = (
                f"expected a positive integer in the environment at {self.option}, got {json.dumps(text[:_MAX_SHOWN])}"
            )
            raise OperationError("input", message, path=self.option)
        return int(text)

    def check(self, count: int, path: str) -> None:
        """Raise :meth:`error` if ``count`` exceeds the limit."""
        if count > self.most:
            raise self.error(path, count)

    def check_text(self, text: str, path: str) -> None:
        """Raise :meth:`error` if the bytes of ``text`` in UTF-8 exceed the limit."""
        # A character has 1 to 4 bytes, so most texts need not be encoded to be counted.
        if len(text) * 4 > self.most:
            self.check(len(text) if len(text) > self.most else len(text.encode(errors="replace")), path)

    def error(self, path: str, count: int | None = None, *, most: int | None = None) -> OperationError:
        """Return the error about something that exceeds the limit.

        Args:
            path: Where it stands.
            count: Its size; ``None``: it was not counted to its end.
            most: The limit, where a flag of the command line has set it.
        """
        most = self.most if most is None else most
        got = "more" if count is None else count
        remedy = "" if self.option is None else f"; {self.option} sets this limit"
        message = f"expected at most {most} {self.unit} at {path}, got {got}{remedy}"
        return OperationError(self.kind, message, path=path, limit=most, option=self.option)


_MAX_DIGITS: Final = 18
_MAX_SHOWN: Final = 64

#: A call to Python, and an answer of Elixir to Python, as a term. Elixir checks it before it sends a call.
REQUEST_BYTES: Final = Limit("request", 256 * _MIB, option="max_request_bytes")
#: The answer to a call, and a call or event for Elixir, as a term.
ANSWER_BYTES: Final = Limit("answer", 256 * _MIB, kind="encode", option="max_answer_bytes")
#: The body of a model's answer, and the text of a streamed one.
REPLY_BYTES: Final = Limit("reply of a model", 16 * _MIB, kind="provider", option="DSPEX_MAX_REPLY_BYTES")
#: What a tool returns to the model. The model sees the error.
TOOL_RESULT_BYTES: Final = Limit("result of a tool", _MIB, kind="tool", option="DSPEX_MAX_TOOL_RESULT_BYTES")
#: What a retriever returns for one query.
PASSAGES_BYTES: Final = Limit("result of a retriever", 16 * _MIB, kind="tool", option="DSPEX_MAX_PASSAGES_BYTES")
#: The least value of both: every error answer fits into it, and every message that is handled where it was read.
MIN_MESSAGE_BYTES: Final = 64 * _KIB
#: An id that a caller chooses: of a request, a session, a program, a conversation.
ID_BYTES: Final = Limit("id", _KIB)
#: A name that a caller chooses: of a field, a stage, a tool, a model, a label of an enum.
NAME_BYTES: Final = Limit("name", _KIB)
#: The entries of a map or keyword list of options, of a spec, or of an example.
ENTRIES: Final = Limit("entries", 10_000, unit="entries")
#: The options of one call.
OPTIONS: Final = Limit("options of a call", 256, unit="options")
#: A model and its fallback models.
MODELS: Final = Limit("fallback models", 32, unit="models")
#: The levels of lists and maps in the configuration of a model.
MODEL_DEPTH: Final = Limit("nesting of a model", 20, unit="levels")
#: The demos of one call.
DEMOS: Final = Limit("demos", 1_000, unit="demos")
#: The tools of one call or of one module.
TOOLS: Final = Limit("tools", 128, unit="tools")
#: The parts of the JSON schemas of the tools of one call: each schema, keyword and value in it.
SCHEMA_PARTS: Final = Limit("schemas of tools", 4_000, unit="parts")
#: The JSON schema of one tool.
SCHEMA_BYTES: Final = Limit("schema of a tool", 256 * _KIB)
#: The spec of a stored program, and what it has learned.
PROGRAM_BYTES: Final = Limit("program", 16 * _MIB, option="DSPEX_MAX_PROGRAM_BYTES")
#: All stored programs together.
PROGRAMS_BYTES: Final = Limit("programs", 256 * _MIB, kind="overloaded", option="DSPEX_MAX_PROGRAMS_BYTES")
#: The turns of one conversation; past it the oldest turns go.
CONVERSATION_BYTES: Final = Limit("conversation", 4 * _MIB, option="DSPEX_MAX_CONVERSATION_BYTES")
#: The turns of all conversations together.
CONVERSATIONS_BYTES: Final = Limit(
    "conversations", 256 * _MIB, kind="overloaded", option="DSPEX_MAX_CONVERSATIONS_BYTES"
)
#: The number of stored programs, with their versions; and of sessions.
PROGRAMS: Final = Limit("number of programs", 1_000, "programs", "overloaded", "DSPEX_MAX_PROGRAMS")
#: The number of conversations.
CONVERSATIONS: Final = Limit(
    "number of conversations", 10_000, "conversations", "overloaded", "DSPEX_MAX_CONVERSATIONS"
)
#: Every limit of this module, by its name in the table.
LIMITS: Final[Mapping[str, Limit]] = {
    limit.name: limit for limit in list(globals().values()) if isinstance(limit, Limit)
}


def check_environment() -> None:
    """Check all variables of the environment that set a limit; raise errors as :attr:`Limit.most`."""
    for limit in LIMITS.values():
        limit.check(0, limit.name)


def check_depth(value: object, limit: Limit, path: str) -> None:
    """Raise the limit's error if lists and maps nest deeper than it, without recursion and without building a path."""
    level: list[Any] = [value] if isinstance(value, _NESTING) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit.most:
            raise limit.error(path)
        parts = (item.values() if isinstance(item, Mapping) else item for item in level)
        level = [inner for part in parts for inner in part if isinstance(inner, _NESTING)]


def most_reply_bytes(content_type: str | None) -> int:
    """Return the limit on the body of a model's reply of this content type, inflated."""
    is_stream = (content_type or "").lower().startswith("text/event-stream")
    return REPLY_BYTES.most * (_EVENTS_PER_TEXT if is_stream else 1)


def size_of(value: object, most: int) -> int:
    """Return about how many bytes a value takes as a term; stop counting beyond ``most``.

    Shared parts count each time they occur, as they would in a term.
    """
    size = 0
    waiting: list[Any] = [value]
    while waiting and size <= most:
        item = waiting.pop()
        size += _UNIT_BYTES
        if isinstance(item, str | bytes | bytearray):
            size += len(item)
        elif isinstance(item, Mapping):
            for key, inner in item.items():
                waiting += (key, inner)
        elif isinstance(item, list | tuple | set | frozenset):
            if len(item) * _UNIT_BYTES > most - size:
                return most + 1
            waiting += item
        elif isinstance(item, int) and not isinstance(item, bool):
            size += item.bit_length() // 8
        elif hasattr(item, "__dict__"):
            waiting += vars(item).values()
    return size
