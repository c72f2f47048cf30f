"""Keep the conversations of programs: the turns of each, by program and by the id that callers give it.

Programs are shared, conversations never: a program sees the turns of the conversation that a call names, and no others.
A conversation belongs to all versions of its program. It keeps its last :data:`MAX_TURNS` turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import quoted
from erlport_bridge.programs.values import plain

#: Turns of a conversation that a program keeps and shows its model.
MAX_TURNS: Final = 50
DEFAULT_MAX_CONVERSATIONS: Final = 10_000

#: The fields of one question and its answer, ready for DSPy.
Turn = Mapping[str, Any]


@dataclass
class Conversation:
    """One conversation with one program.

    Attributes:
        id: The id that callers give it.
        program_id: The program.
        session_id: The session through which it began, whose end is its end too; ``None``: none but the program's.
    """

    id: str
    program_id: str
    session_id: str | None = None
    created_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.monotonic)
    _turns: deque[Turn] = field(default_factory=lambda: deque(maxlen=MAX_TURNS), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def turns(self) -> list[Turn]:
        """Return the turns so far, oldest first; later turns do not change the list."""
        with self._lock:
            return list(self._turns)

    def append(self, turn: Turn) -> None:
        """Add a turn; past :data:`MAX_TURNS` the oldest turn goes."""
        with self._lock:
            self._turns.append(turn)
        self.used_at = time.monotonic()

    def replace(self, turns: Iterable[Turn]) -> None:
        """Set all turns; of more than :data:`MAX_TURNS` the last ones."""
        turns = list(turns)
        with self._lock:
            self._turns.clear()
            self._turns.extend(turns)
        self.used_at = time.monotonic()

    def keep_last(self, count: int) -> None:
        """Forget all turns but the last ``count``."""
        with self._lock:
            while len(self._turns) > count:
                self._turns.popleft()

    def describe(self) -> dict[str, Any]:
        """Return the conversation without its turns, as a term; times in milliseconds."""
        with self._lock:
            count = len(self._turns)
        return {
            "id": self.id,
            "program_id": self.program_id,
            "session_id": self.session_id,
            "turn_count": count,
            "created_at_ms": round(self.created_at * 1000),
            "idle_ms": round((time.monotonic() - self.used_at) * 1000),
        }

    def read(self) -> dict[str, Any]:
        """Return the conversation with its turns as terms, in the form in which they can be given in again."""
        turns = [plain(dict(turn), f"turns[{index}]") for index, turn in enumerate(self.turns())]
        return {**self.describe(), "turns": turns}


class Conversations:
    """The conversations of one port.

    Args:
        max_conversations: Most conversations at the same time. Past it, conversations that were idle too long are
            forgotten, and if there are none a new conversation is refused.
        idle_s: How long a conversation must have been idle to be forgotten where there is no room.
    """

    def __init__(self, max_conversations: int = DEFAULT_MAX_CONVERSATIONS, idle_s: float = 3600.0) -> None:
        self._max = max_conversations
        self._idle_s = idle_s
        self._known: dict[tuple[str, str], Conversation] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def opened(self, program_id: str, conversation_id: str, session_id: str | None = None) -> Conversation:
        """Return a conversation, which begins if there is none of that id.

        Raises:
            OperationError: Of kind ``overloaded``: there is no room for another one.
        """
        key = program_id, conversation_id
        with self._lock:
            found = self._known.get(key)
            if found is None:
                self._check_room()
                found = self._known[key] = Conversation(conversation_id, program_id, session_id)
        found.used_at = time.monotonic()
        return found

    def find(self, program_id: str, conversation_id: str) -> Conversation:
        """Return a conversation that has begun.

        Raises:
            OperationError: Of kind ``input``: there is none of that id.
        """
        found = self._known.get((program_id, conversation_id))
        if found is None:
            raise _unknown(program_id, conversation_id)
        return found

    def of(self, program_id: str) -> list[Conversation]:
        """Return the conversations of a program, in the order in which they began."""
        with self._lock:
            return [one for one in self._known.values() if one.program_id == program_id]

    def delete(self, program_id: str, conversation_id: str) -> Conversation:
        """Forget a conversation; errors as :meth:`find`."""
        found = self.find(program_id, conversation_id)
        with self._lock:
            self._known.pop((program_id, conversation_id), None)
        return found

    def forget(self, session_id: str | None, program_ids: Iterable[str]) -> None:
        """Forget the conversations of programs, and those that began through a session."""
        programs = set(program_ids)
        with self._lock:
            for key, one in list(self._known.items()):
                if one.program_id in programs or (session_id is not None and one.session_id == session_id):
                    del self._known[key]

    def _check_room(self) -> None:
        if len(self._known) < self._max:
            return
        limit = time.monotonic() - self._idle_s
        for key, one in list(self._known.items()):
            if one.used_at < limit:
                del self._known[key]
        if len(self._known) >= self._max:
            raise OperationError(
                "overloaded",
                f"this port holds {len(self._known)} conversations already; delete_conversation first, or start it "
                f"with a larger DSPEX_MAX_CONVERSATIONS",
            )


def _unknown(program_id: str, conversation_id: str) -> OperationError:
    # Without a suggestion: it would tell one user the id of another.
    message = f"unknown conversation {quoted(conversation_id)} with program {quoted(program_id)}"
    message += "; a conversation begins with its first call, or with seed_conversation"
    return OperationError("input", message, path="conversation_id")
