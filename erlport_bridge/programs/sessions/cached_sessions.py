"""What a registry offers to the store whose cache it is, see :mod:`.stored_sessions`. None of it counts as a use."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import BudgetLimits, LanguageModel
from erlport_bridge.programs.sessions.conversations import Conversations
from erlport_bridge.programs.sessions.program import Program
from erlport_bridge.programs.sessions.session import Session


class CachedSessions(ABC):
    """The part of the registry by which the store reads and changes what it holds.

    Attributes:
        conversations: The conversations of all programs.
    """

    conversations: Conversations
    _max_programs: int
    _sessions: dict[str, Session]
    _lock: threading.Lock

    @abstractmethod
    def _opened(self, session_id: str) -> Session:
        """Return a session, which is opened if it does not exist."""

    @abstractmethod
    def _check_room(self, size: int) -> None:
        """Check that the registry has room for one more program of this size."""

    def peek(self, session_id: str) -> Session | None:
        """Return a session of the registry, idle or not."""
        return self._sessions.get(session_id)

    def peek_program(self, program_id: str) -> Program | None:
        """Return the newest version of a program of the registry."""
        with self._lock:
            return next(
                (one.programs[program_id] for one in self._sessions.values() if program_id in one.programs), None
            )

    def restore_session(
        self, session_id: str, model: LanguageModel | None, limits: BudgetLimits, created_at: float, row: int
    ) -> None:
        """Open a session that was read from the store, or set what was read for one that is open."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                session = self._opened(session_id)
            session.model, session.created_at, session.row = model, created_at, row
            session.budget.limits = limits

    def restore_program(self, versions: Mapping[int, Program]) -> None:
        """Set the versions of a program that were read from the store, in its session, which is open."""
        newest = versions[max(versions)]
        with self._lock:
            session = self._opened(newest.session_id)
            # All versions spend one budget.
            known = session.programs.get(newest.id, newest).budget
            for version in versions.values():
                version.budget = known
            session.programs[newest.id] = newest
            session.versions[newest.id] = dict(versions)

    def forget(self, session_id: str) -> None:
        """Take a session out of the registry that the store does not have any more, as :meth:`close` does."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                session.is_closed = True
        if session is not None:
            self.conversations.forget(session_id, session.programs)

    def forget_program(self, program: Program) -> None:
        """Take a program out of the registry, with its conversations."""
        with self._lock:
            session = self._sessions.get(program.session_id)
            if session is not None:
                session.programs.pop(program.id, None)
                session.versions.pop(program.id, None)
        self.conversations.forget(None, [program.id])

    def make_room(self) -> None:
        """Remove sessions that nobody uses from the registry, the least recently used first, until there is room."""
        with self._lock:
            unused = iter(
                sorted((one for one in self._sessions.values() if not one.users), key=lambda one: one.used_at)
            )
            while self._is_full():
                session = next(unused, None)
                if session is None:
                    return
                del self._sessions[session.id]
                self.conversations.forget(session.id, session.programs)

    def _is_full(self) -> bool:
        try:
            self._check_room(0)
        except OperationError:
            return True
        return len(self._sessions) >= self._max_programs
