"""Keep the conversations of programs: the turns of each, by program and by the id that callers give it.

Programs are shared, conversations never: a program sees the turns of the conversation that a call names, and no others.
A conversation belongs to all versions of its program. It keeps its last :data:`MAX_TURNS` turns, and of these as many
as the limit on its bytes allows.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import CONVERSATION_BYTES, CONVERSATIONS, CONVERSATIONS_BYTES, size_of
from erlport_bridge.programs.sessions import uses
from erlport_bridge.programs.text import quoted
from erlport_bridge.programs.values import plain

#: Turns of a conversation that a program keeps and shows its model.
MAX_TURNS: Final = 50

#: The fields of one question and its answer, ready for DSPy.
Turn = Mapping[str, Any]


class _Total:
    """The bytes of all conversations of a port, changed with each of them."""

    def __init__(self) -> None:
        self.size = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Add a number of bytes, which may be negative."""
        with self._lock:
            self.size += size


@dataclass
class Conversation:
    """One conversation with one program.

    Attributes:
        id: The id that callers give it.
        program_id: The program.
        session_id: The session through which it began, whose end is its end too; ``None``: none but the program's.
        users: How many running operations use it.
        size: The bytes of its turns.
        row: The version of its row in the store from which it is; ``None``: it is not stored.
        claim: The version of its row since which this process is its owner; ``None``: it is not.
        has_dropped: Whether it has forgotten turns by itself that the store may still have.
    """

    id: str
    program_id: str
    session_id: str | None = None
    created_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.monotonic)
    users: int = 0
    size: int = 0
    row: int | None = None
    claim: int | None = None
    has_dropped: bool = False
    _total: _Total | None = field(default=None, repr=False)
    _turns: deque[tuple[Turn, int]] = field(default_factory=deque, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def turns(self) -> list[Turn]:
        """Return the turns so far, oldest first; later turns do not change the list."""
        with self._lock:
            return [turn for turn, _ in self._turns]

    def append(self, turn: Turn, size: int | None = None) -> None:
        """Add a turn; past :data:`MAX_TURNS`, and past the limit on bytes, the oldest turns go.

        A turn that exceeds the limit alone is not kept, nor what came before it: the model would miss the link.

        Args:
            turn: The turn.
            size: Its bytes, if :func:`bytes_of` has counted them already.
        """
        # Without the lock, for which the event loop may wait.
        size = bytes_of(turn) if size is None else size
        with self._lock:
            self._add(turn, size)
        self.used_at = time.monotonic()

    def replace(self, turns: Iterable[Turn], sizes: Iterable[int] | None = None) -> None:
        """Set all turns; of more than :data:`MAX_TURNS`, or more than the limit on bytes, the last ones.

        Args:
            turns: The turns.
            sizes: The bytes of each, if :func:`bytes_of` has counted them already.
        """
        turns = list(turns)
        weighed = list(zip(turns, map(bytes_of, turns) if sizes is None else sizes, strict=True))
        with self._lock:
            self._forget(len(self._turns))
            for turn, size in weighed:
                self._add(turn, size)
        self.used_at = time.monotonic()

    def keep_last(self, count: int) -> None:
        """Forget all turns but the last ``count``."""
        with self._lock:
            self._forget(len(self._turns) - count)

    def detach(self) -> None:
        """Take its bytes out of the total, for good: calls in flight may still add turns, which nobody else sees."""
        with self._lock:
            if self._total is not None:
                self._total.add(-self.size)
            self._total = None

    def _add(self, turn: Turn, size: int) -> None:
        self._turns.append((turn, size))
        self._resize(size)
        while len(self._turns) > MAX_TURNS or self.size > CONVERSATION_BYTES.most:
            self._forget(1)
            self.has_dropped = True

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._resize(-self._turns.popleft()[1])

    def _resize(self, change: int) -> None:
        self.size += change
        if self._total is not None:
            self._total.add(change)

    def describe(self) -> dict[str, Any]:
        """Return the conversation without its turns, as a term; times in milliseconds."""
        with self._lock:
            count = len(self._turns)
        return {
            "id": self.id,
            "program_id": self.program_id,
            "session_id": self.session_id,
            "turn_count": count,
            "bytes": self.size,
            "created_at_ms": round(self.created_at * 1000),
            "idle_ms": 0 if self.users else round((time.monotonic() - self.used_at) * 1000),
        }

    def read(self) -> dict[str, Any]:
        """Return the conversation with its turns as terms, in the form in which they can be given in again."""
        turns = [plain(dict(turn), f"turns[{index}]") for index, turn in enumerate(self.turns())]
        return {**self.describe(), "turns": turns}


class Conversations:
    """The conversations of one port.

    Args:
        max_conversations: Most conversations at the same time; ``None``: as the port is set up. Past it, conversations
            that were idle too long are forgotten, and if there are none a new conversation is refused.
        idle_s: How long a conversation must have been idle to be forgotten where there is no room.
    """

    def __init__(self, max_conversations: int | None = None, idle_s: float = 3600.0) -> None:
        self._max = CONVERSATIONS.most if max_conversations is None else max_conversations
        self._idle_s = idle_s
        self._known: dict[tuple[str, str], Conversation] = {}
        self._total = _Total()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def opened(self, program_id: str, conversation_id: str, session_id: str | None = None) -> Conversation:
        """Return a conversation, which begins if there is none of that id.

        Raises:
            OperationError: Of kind ``overloaded``: there is no room for another one, or for its next turn.
        """
        key = program_id, conversation_id
        with self._lock:
            self._check_bytes()
            found = self._known.get(key)
            if found is None:
                self._check_room()
                found = self._known[key] = Conversation(conversation_id, program_id, session_id, _total=self._total)
            uses.touch(found)
        return found

    def find(self, program_id: str, conversation_id: str) -> Conversation:
        """Return a conversation that has begun.

        Raises:
            OperationError: Of kind ``input``: there is none of that id.
        """
        with self._lock:
            found = self._known.get((program_id, conversation_id))
            if found is None:
                raise _unknown(program_id, conversation_id)
            uses.touch(found)
        return found

    def peek(self, program_id: str, conversation_id: str) -> Conversation | None:
        """Return a conversation that has begun, without using it."""
        return self._known.get((program_id, conversation_id))

    def in_use(self) -> list[tuple[str, str]]:
        """Return the programs and ids of the conversations that running operations use."""
        with self._lock:
            return [key for key, one in self._known.items() if one.users]

    def restore(self, program_id: str, conversation_id: str, session_id: str | None, created_at: float) -> Conversation:
        """Return the conversation for what was read of it from the store; without a limit, see :meth:`make_room`."""
        with self._lock:
            found = self._known.setdefault(
                (program_id, conversation_id),
                Conversation(conversation_id, program_id, session_id, _total=self._total),
            )
            found.session_id, found.created_at = session_id, created_at
        return found

    def forget_one(self, conversation: Conversation) -> None:
        """Forget a conversation, unless another one has its id meanwhile."""
        with self._lock:
            key = conversation.program_id, conversation.id
            if self._known.get(key) is conversation:
                self._drop(key)

    def make_room(self) -> None:
        """Forget conversations that nobody uses, those first that were used least recently, until there is room."""
        with self._lock:
            if len(self._known) < self._max and self.size <= CONVERSATIONS_BYTES.most:
                return
            unused = sorted((one for one in self._known.values() if not one.users), key=lambda one: one.used_at)
            # Half of them at once, as they are sorted for that.
            for one in unused[: len(unused) // 2 + 1]:
                self._drop((one.program_id, one.id))

    def of(self, program_id: str) -> list[Conversation]:
        """Return the conversations of a program, in the order in which they began."""
        with self._lock:
            return [one for one in self._known.values() if one.program_id == program_id]

    def delete(self, program_id: str, conversation_id: str) -> Conversation:
        """Forget a conversation; errors as :meth:`find`."""
        found = self.find(program_id, conversation_id)
        with self._lock:
            self._drop((program_id, conversation_id))
        return found

    def forget(self, session_id: str | None, program_ids: Iterable[str]) -> None:
        """Forget the conversations of programs, and those that began through a session."""
        programs = set(program_ids)
        with self._lock:
            for key, one in list(self._known.items()):
                if one.program_id in programs or (session_id is not None and one.session_id == session_id):
                    self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        if (one := self._known.pop(key, None)) is not None:
            one.detach()

    def _check_bytes(self) -> None:
        if self.size <= CONVERSATIONS_BYTES.most:
            return
        self._forget_idle()
        if (size := self.size) > CONVERSATIONS_BYTES.most:
            raise CONVERSATIONS_BYTES.error("the conversations of this port", size)

    @property
    def size(self) -> int:
        """The bytes of all conversations."""
        return self._total.size

    def _forget_idle(self) -> None:
        for key, one in list(self._known.items()):
            if uses.is_idle(one, self._idle_s):
                self._drop(key)

    def _check_room(self) -> None:
        if len(self._known) < self._max:
            return
        self._forget_idle()
        if len(self._known) >= self._max:
            raise OperationError(
                "overloaded",
                f"this port holds {len(self._known)} conversations already; delete_conversation first, or start it "
                f"with a larger DSPEX_MAX_CONVERSATIONS",
            )


def bytes_of(turn: Turn) -> int:
    """Return the bytes of a turn; counting stops beyond the limit of a conversation."""
    return size_of(turn, CONVERSATION_BYTES.most)


def _unknown(program_id: str, conversation_id: str) -> OperationError:
    # Without a suggestion: it would tell one user the id of another.
    message = f"unknown conversation {quoted(conversation_id)} with program {quoted(program_id)}"
    message += "; a conversation begins with its first call, or with seed_conversation"
    return OperationError("input", message, path="conversation_id")
