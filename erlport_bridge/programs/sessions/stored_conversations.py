"""Make the conversations of a port a cache of its store; without one, they are all there is.

A conversation has one owner. A call claims it before it asks a model, unless this process is its owner already, and
adds its turn only if the claim still holds. So a process that was paused and replaced meanwhile gets a conflict, and so
does a call that went on from turns which are not the last any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sessions.conversations import MAX_TURNS, Conversation, Conversations, Turn, bytes_of
from erlport_bridge.programs.sessions.locks import Locks
from erlport_bridge.programs.sessions.program import Program
from erlport_bridge.programs.sessions.provided import POOL_SESSION
from erlport_bridge.programs.values import plain
from erlport_bridge.request import asking, weight, within_time
from erlport_bridge.store import ConflictError, ConversationRow, Store, TurnRow, terms

if TYPE_CHECKING:
    from erlport_bridge.store import Rows

#: No row has this version: the registry does not know what the store has.
UNKNOWN: Final = -1
#: How often a change is tried on what another process has written meanwhile.
ATTEMPTS: Final = 5


class Refresh(Protocol):
    """Has the registry hold the newest of what a call names, see :meth:`.StoredSessions.refresh`."""

    def __call__(
        self,
        *names: str,
        program_id: str | None = None,
        conversation_id: str | None = None,
        left_s: float | None = None,
    ) -> Awaitable[None]:
        """Read what the registry lacks."""


@dataclass(frozen=True)
class Told:
    """A conversation as a call goes on from it: its turns at that time, and the claim under which a turn is added."""

    conversation: Conversation
    turns: tuple[Turn, ...]
    claim: int | None = None


class StoredConversations:
    """The conversations of a port and their store.

    Args:
        known: The conversations that the registry holds.
        store: The store; ``None``: the registry is all there is.
        owner: Returns the id of this process.
        refresh: Reads from the store what the registry lacks.
    """

    def __init__(self, known: Conversations, store: Store | None, owner: Callable[[], str], refresh: Refresh) -> None:
        self._known = known
        self._store = store
        self._owner = owner
        self._refresh = refresh
        self._locks = Locks()

    async def open(
        self,
        program: Program,
        conversation_id: str,
        session_id: str | None,
        left_s: float | None = None,
        *,
        deletes: bool = False,
    ) -> Told:
        """Open a conversation for a call that adds a turn to it; it begins if there is none.

        Args:
            program: The program.
            conversation_id: The conversation.
            session_id: The session through which it begins.
            left_s: How long the call waits.
            deletes: Whether the call only deletes turns, for which a full disk has room.

        Raises:
            OperationError: As :meth:`.Conversations.opened`.
        """
        if self._store is None:
            found = self._known.opened(program.id, conversation_id, session_id)
            return Told(found, tuple(found.turns()))
        async with self._locks.of(program.id, conversation_id):
            self._known.make_room()
            found = self._known.opened(program.id, conversation_id, session_id)
            await self._claim(program, found, left_s, deletes=deletes)
            return Told(found, tuple(found.turns()), found.claim)

    async def _claim(self, program: Program, found: Conversation, left_s: float | None, *, deletes: bool) -> None:
        """Become the owner of a conversation, unless this process is it already."""
        for attempt in range(ATTEMPTS):
            if found.row == UNKNOWN:
                await self._refresh(program_id=program.id, conversation_id=found.id, left_s=left_s)
            if found.row is not None and found.claim is not None:
                return
            try:
                await self._claim_row(program, found, deletes=deletes)
            except ConflictError:
                if attempt == ATTEMPTS - 1:
                    raise
                found.row = UNKNOWN
            else:
                return

    async def _claim_row(self, program: Program, found: Conversation, *, deletes: bool) -> None:
        seen, owner = found.row, self._owner()
        is_stored = program.session_id != POOL_SESSION
        found.row = found.claim = await self._changed(
            found,
            lambda rows: rows.claim(program.id, found.id, found.session_id, owner, seen, is_stored=is_stored),
            deletes=deletes,
        )

    async def answered(self, program: Program, told: Told, key: str | None) -> dict[str, Any] | None:
        """Return the prediction of the same call, if it has added its turn already; ``None``: it has not."""
        if self._store is None or key is None:
            return None
        text = await self._store.read(lambda rows: rows.answered(program.id, told.conversation.id, key))
        if text is None:
            return None
        return dict(await weight.aside(terms.loads, text, heavy=weight.is_heavy(text)))

    @contextlib.asynccontextmanager
    async def same_call(
        self, program: Program, of: str | None, key: str | None, left_s: float | None
    ) -> AsyncIterator[None]:
        """Wait until no other call of a program with the same key runs, and keep others waiting meanwhile.

        Args:
            program: The program.
            of: Whose conversation it is.
            key: As in :meth:`add_turn`.
            left_s: How long to wait.

        Raises:
            OperationError: Of kind ``timeout``: the other call still runs.
        """
        async with contextlib.AsyncExitStack() as held:
            if self._store is not None and key is not None:
                try:
                    await within_time(
                        held.enter_async_context(self._locks.of("call", program.id, of or "", key)), left_s
                    )
                except asyncio.TimeoutError:
                    message = "the same call, which has this request_id too, still runs"
                    raise OperationError("timeout", message, stage="queue") from None
            yield

    async def add_turn(
        self, program: Program, told: Told, turn: Turn, key: str | None = None, answer: Mapping[str, Any] | None = None
    ) -> None:
        """Add the turn of a call to its conversation, in the store first.

        Args:
            program: The program.
            told: The conversation as the call found it.
            turn: The turn.
            key: What distinguishes the call from every other one, but not from its repetition.
            answer: The prediction, which a repetition of the call is answered with.

        Raises:
            ConflictError: Another process has claimed the conversation since, and nothing is added.
        """
        found = told.conversation
        if self._store is None:
            await weight.aside(found.append, turn)
            return
        is_heavy = weight.of_request() or weight.is_heavy(turn)
        row, size = await weight.aside(_turn_row, turn, key, answer, heavy=is_heavy)
        async with self._locks.of(program.id, found.id):
            count = len(found.turns()) + 1
            keep = min(count, MAX_TURNS) if found.has_dropped or count > MAX_TURNS else None
            if key is None:
                # Made again, the call would add its turn twice; with a key it is answered with what it has stored.
                asking.note(is_seen=True)
            # At once: what is read from the store later has this turn.
            is_lacking = await self._append(program, told, [row], keep)
            found.has_dropped = False
            if is_lacking:
                found.append(turn, size)

    async def _append(self, program: Program, told: Told, turns: Sequence[TurnRow], keep: int | None) -> bool:
        """Change the turns in the store; return whether the registry lacks the change."""
        found = told.conversation
        if found.row == UNKNOWN:
            await self._refresh(program_id=program.id, conversation_id=found.id)
        if found.claim != told.claim or found.row is None:
            message = (
                f"conversation {found.id!r} was continued by another worker meanwhile; nothing is stored: call again"
            )
            raise ConflictError(message)
        seen, owner = found.row, self._owner()
        if keep is None:
            (turn,) = turns
            row = await self._changed(
                found, lambda rows: rows.append_turn(program.id, found.id, owner, seen, turn) or UNKNOWN
            )
        else:
            row = await self._changed(
                found,
                lambda rows: rows.append(program.id, found.id, owner, seen, turns, keep) or UNKNOWN,
                is_one_statement=False,
                deletes=not turns,
            )
        if row == UNKNOWN:
            # It was deleted meanwhile, so the turn came before.
            self._known.forget_one(found)
        elif found.row is not None and found.row >= row:
            return False  # another call has read the change from the store meanwhile
        found.row = row
        return True

    async def seed(self, program: Program, conversation_id: str, turns: Sequence[Turn]) -> dict[str, Any]:
        """Set the turns of a conversation, which begins if there is none, and return its description."""
        told = await self.open(program, conversation_id, None)
        found = told.conversation
        if self._store is None:
            await weight.aside(found.replace, turns)
            return found.describe()
        turns = turns[-MAX_TURNS:]
        rows = await weight.aside(lambda: [_turn_row(turn) for turn in turns])
        async with self._locks.of(program.id, found.id):
            if await self._append(program, told, [row for row, _ in rows], len(rows)):
                found.replace(turns, [size for _, size in rows])
        return found.describe()

    async def cut(self, program: Program, conversation_id: str, keep: int) -> dict[str, Any]:
        """Forget all turns of a conversation but the last ``keep``, and return its description."""
        found = await self.find(program, conversation_id)
        if self._store is None:
            found.keep_last(keep)
            return found.describe()
        told = await self.open(program, conversation_id, None, deletes=True)
        async with self._locks.of(program.id, found.id):
            if await self._append(program, told, [], keep):
                found.keep_last(keep)
        return found.describe()

    async def delete(self, program: Program, conversation_id: str) -> dict[str, Any]:
        """Forget a conversation, and return what it was."""
        if self._store is None:
            return self._known.delete(program.id, conversation_id).describe()
        # Its turns are not read, which may be those of another program that had this name before.
        row = await self._store.read(lambda rows: rows.conversation(program.id, conversation_id))
        known = self._known.peek(program.id, conversation_id)
        if row is None:
            if known is not None and known.row is not None:
                self._known.forget_one(known)
            return self._known.delete(program.id, conversation_id).describe()
        described = self._description(replace(row, turn_count=len(row.turns), size=sum(map(len, row.turns))))
        # Made again, the call would find nothing.
        asking.note(is_seen=True)
        await self._store.delete(lambda rows: rows.delete_conversation(program.id, conversation_id))
        if known is not None:
            self._known.forget_one(known)
        return described

    async def find(self, program: Program, conversation_id: str) -> Conversation:
        """Return a conversation that has begun; errors as :meth:`.Conversations.find`."""
        await self._refresh(program_id=program.id, conversation_id=conversation_id)
        return self._known.find(program.id, conversation_id)

    async def of(self, program: Program) -> list[dict[str, Any]]:
        """Return the descriptions of the conversations of a program."""
        if self._store is None:
            return [one.describe() for one in self._known.of(program.id)]
        rows = await self._store.read(lambda rows: rows.conversations(program.id))
        return [self._description(row) for row in rows]

    def _description(self, row: ConversationRow) -> dict[str, Any]:
        known = self._known.peek(row.program_id, row.id)
        if known is not None and known.row == row.version:
            return known.describe()
        return {
            "id": row.id,
            "program_id": row.program_id,
            "session_id": row.session_id,
            "turn_count": row.turn_count,
            "bytes": row.size,
            "created_at_ms": row.created_ms,
            "idle_ms": max(0, row.idle_ms),
        }

    async def _changed(
        self, found: Conversation, work: Callable[[Rows], int], *, is_one_statement: bool = True, deletes: bool = False
    ) -> int:
        """Change a conversation, and return its new version; after a failure, its version is not known any more."""
        store: Store = self._store  # type: ignore[assignment]
        try:
            return await (
                store.delete(work) if deletes else store.change(work) if is_one_statement else store.write(work)
            )
        except BaseException:
            found.row = UNKNOWN
            raise


def _turn_row(turn: Turn, key: str | None = None, answer: Mapping[str, Any] | None = None) -> tuple[TurnRow, int]:
    """Return the row of a turn, and the bytes that it has in the registry."""
    answered = None if key is None else terms.dumps(plain(answer))
    return TurnRow(terms.dumps(plain(dict(turn))), key, answered), bytes_of(turn)
