"""Make the registry of a port a cache of its store: read what a call uses, and write what it changes before its answer.

Without a store, each method works on the registry alone. With one, a call first has :meth:`StoredSessions.refresh`
compare the versions of what it names with those in the store, by one query, and read what the registry lacks or has
otherwise. A change is written first and enters the registry then; so whatever was answered is in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from erlport_bridge.counting import Spent
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import Budget, BudgetLimits, KeptAnswers, LanguageModel
from erlport_bridge.programs.pipelines import Learned
from erlport_bridge.programs.sessions import stored_budgets, stored_programs
from erlport_bridge.programs.sessions.conversations import bytes_of
from erlport_bridge.programs.sessions.locks import Locks
from erlport_bridge.programs.sessions.neighbours import Neighbours
from erlport_bridge.programs.sessions.program import Program
from erlport_bridge.programs.sessions.provided import POOL_SESSION, check_changeable
from erlport_bridge.programs.sessions.registry import Sessions, read_limit
from erlport_bridge.programs.sessions.session import Session
from erlport_bridge.programs.sessions.stored_budgets import StoredBudgets
from erlport_bridge.programs.sessions.stored_compilations import CompilationAnswers
from erlport_bridge.programs.sessions.stored_conversations import ATTEMPTS, UNKNOWN, StoredConversations
from erlport_bridge.programs.sessions.stored_programs import ReadNeighbours
from erlport_bridge.programs.values import media
from erlport_bridge.request import asking, weight, within_time
from erlport_bridge.store import (
    ConflictError,
    ConversationRow,
    ProgramRow,
    SessionRow,
    SpentRow,
    Store,
    VersionRow,
    Versions,
    from_environment,
    terms,
)

if TYPE_CHECKING:
    from erlport_bridge.store import Rows

#: Whether the running call uses what this process did not know, and read from the store.
_rehydrated: ContextVar[bool] = ContextVar("rehydrated", default=False)

#: How long a session or a conversation stays in the store without being used: 30 days.
DEFAULT_TTL_MS: Final = 30 * 86_400_000
# A use of a session is written at most this often.
_TOUCH_S: Final = 60.0
# With less, this process would do nothing but look for what is idle.
_LEAST_TTL_MS: Final = 1_000


class _Stale(NamedTuple):
    """What the registry lacks or has in another version, with the version that it had."""

    sessions: dict[str, int | None]
    program: str | None
    conversation: tuple[str, str] | None

    def __bool__(self) -> bool:
        return bool(self.sessions) or self.program is not None or self.conversation is not None


class StoredSessions:
    """The registry of a port and its store.

    Args:
        sessions: The registry.
        store: The store; ``None``: the registry is all there is.
        read_neighbours: Reads the examples from which a program learns at each call.
        ttl_ms: How long a session stays in the store without being used.
        owner: The id of this process among those that have the store; by default a new one for each process.

    Attributes:
        conversations: The conversations of the programs.
    """

    def __init__(
        self,
        sessions: Sessions,
        store: Store | None,
        *,
        read_neighbours: ReadNeighbours,
        ttl_ms: int = DEFAULT_TTL_MS,
        owner: str | None = None,
    ) -> None:
        sessions.is_cache = store is not None
        self.sessions = sessions
        self.store = store
        self._read_neighbours = read_neighbours
        self._ttl_ms = ttl_ms
        self._touch_s = min(_TOUCH_S, ttl_ms / 10_000)
        self._owner = owner
        self._owner_pid = os.getpid()
        self._locks = Locks()
        self._budgets = StoredBudgets(store)
        self.conversations = StoredConversations(sessions.conversations, store, self._this_process, self._refresh)
        self._touched_at: dict[str, float] = {}
        self._expiring: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def from_environment(cls, sessions: Sessions, read_neighbours: ReadNeighbours) -> StoredSessions:
        """Return the registry with the store that the environment names, if it names one."""
        address = from_environment()
        ttl_ms = read_limit("DSPEX_SESSION_TTL_MS", DEFAULT_TTL_MS, _LEAST_TTL_MS)
        return cls(
            sessions, None if address is None else Store(address), read_neighbours=read_neighbours, ttl_ms=ttl_ms
        )

    def leave(self) -> None:
        """Prepare for the end of the process; quick, and without an error."""
        if self.store is not None:
            self.store.leave()

    @staticmethod
    def was_rehydrated() -> bool:
        """Return whether the running call uses what this process did not know, and read from the store."""
        return _rehydrated.get()

    # Reading

    async def refresh(
        self,
        *session_ids: str | None,
        program_id: str | None = None,
        conversation_id: str | None = None,
        left_s: float | None = None,
    ) -> None:
        """Have the registry hold the newest of what a call names, as far as the store has it.

        Args:
            session_ids: Sessions; ``None`` stands for none.
            program_id: A program, whose session counts too.
            conversation_id: A conversation of the program.
            left_s: How long the call waits, if its deadline is not known yet.
        """
        if self.store is None:
            return
        names = list(dict.fromkeys(name for name in session_ids if name is not None))
        # A call that came before this one is still changing it.
        for name in names:
            await self._locks.passed("session", name)
        if program_id is not None:
            await self._locks.passed("program", program_id)
        await self._refresh(*names, program_id=program_id, conversation_id=conversation_id, left_s=left_s)

    async def _refresh(
        self,
        *names: str,
        program_id: str | None = None,
        conversation_id: str | None = None,
        left_s: float | None = None,
    ) -> None:
        if self.store is None or (not names and program_id is None):
            return
        before = self._conversation_row(program_id, conversation_id)
        seen = await self.store.glance(lambda rows: rows.versions(names, program_id, conversation_id), left_s)
        stale = self._stale(names, program_id, conversation_id, seen, before)
        if stale:
            await self._read(self.store, stale, left_s)
        self._touch([*names, *(seen.program_session or ())[:1]])

    def _conversation_row(self, program_id: str | None, conversation_id: str | None) -> int | None:
        if program_id is None or conversation_id is None:
            return None
        known = self.sessions.conversations.peek(program_id, conversation_id)
        return None if known is None else known.row

    def _stale(
        self,
        names: Sequence[str],
        program_id: str | None,
        conversation_id: str | None,
        seen: Versions,
        before: int | None,
    ) -> _Stale:
        """Return what must be read, and take out of the registry what the store does not have any more.

        Another call may have begun the conversation since the store was asked, so it must be ``before`` still.
        """
        stored = dict(zip(names, seen.sessions, strict=True))
        if seen.program_session is not None:
            stored[seen.program_session[0]] = seen.program_session[1]
        sessions: dict[str, int | None] = {}
        for name, version in stored.items():
            session = self.sessions.peek(name)
            row = None if session is None else session.row
            if version is None and session is not None and row is not None:
                self.sessions.forget(name)
            elif version is not None and row != version:
                sessions[name] = row
        program = None if program_id is None else self._known_program(program_id, seen)
        if program is not None and seen.program is None and program.row is not None:
            self.sessions.forget_program(program)
        is_stale = seen.program is not None and (program is None or program.row != seen.program)
        told = None
        if program_id is not None and conversation_id is not None:
            known = self.sessions.conversations.peek(program_id, conversation_id)
            if seen.conversation is None and known is not None and known.row is not None:
                if known.row != before:
                    return _Stale(sessions, program_id if is_stale else None, None)
                self.sessions.conversations.forget_one(known)
                known.row = known.claim = None
            elif seen.conversation is not None and (known is None or known.row != seen.conversation[0]):
                told = program_id, conversation_id
        return _Stale(sessions, program_id if is_stale else None, told)

    def _known_program(self, program_id: str, seen: Versions) -> Program | None:
        if seen.program_session is None:
            return self.sessions.peek_program(program_id)
        session = self.sessions.peek(seen.program_session[0])
        return None if session is None else session.programs.get(program_id)

    async def _read(self, store: Store, stale: _Stale, left_s: float | None) -> None:
        known = None
        if stale.conversation is not None:
            known = self.sessions.conversations.peek(*stale.conversation)
        before = None if known is None else known.row
        sessions, program, told = await store.read(
            lambda rows: (
                [rows.session(name) for name in stale.sessions],
                None if stale.program is None else rows.program(stale.program),
                None if stale.conversation is None else rows.conversation(*stale.conversation),
            ),
            left_s,
        )
        for session in sessions:
            if session is not None:
                self._restore_session(session, stale.sessions[session.id])
        if program is not None and self.sessions.peek(program.session_id) is not None:
            bodies = [version.body for version in program.versions]
            await weight.aside(self._restore_program, program, heavy=weight.is_heavy(bodies))
        if told is not None:
            program_read = self.sessions.peek_program(told.program_id)
            if program_read is not None:
                turns = await weight.aside(_turns_of, program_read, told, heavy=weight.is_heavy(told.turns))
                self._restore_conversation(told, before, *turns)

    def _restore_session(self, row: SessionRow, before: int | None) -> None:
        known = self.sessions.peek(row.id)
        if known is not None and known.row != before:
            return  # this process has changed it meanwhile
        if known is None:
            self.sessions.make_room()
            _rehydrated.set(True)
        model = stored_programs.read_model(row.model, self.sessions.default_model())
        self.sessions.restore_session(row.id, model, _limits_of(row), row.created_ms / 1000, row.version)

    def _restore_program(self, row: ProgramRow) -> None:
        session = self.sessions.peek(row.session_id)
        known = {} if session is None else session.versions.get(row.id, {})
        if not known:
            self.sessions.make_room()
            _rehydrated.set(True)
        versions = {}
        for one in row.versions:
            # A version never changes.
            # In a context of its own: that URLs are allowed here says nothing about those of the call.
            found = known.get(one.number) or contextvars.copy_context().run(self._version, row, one)
            found.row = row.version
            versions[one.number] = found
        self.sessions.restore_program(versions)

    def _restore_conversation(
        self, row: ConversationRow, before: int | None, turns: list[dict[str, Any]], sizes: list[int]
    ) -> None:
        known = self.sessions.conversations.peek(row.program_id, row.id)
        if known is not None and known.row != before:
            return  # this process has changed it meanwhile
        if known is None:
            self.sessions.conversations.make_room()
            _rehydrated.set(True)
        found = self.sessions.conversations.restore(row.program_id, row.id, row.session_id, row.created_ms / 1000)
        found.replace(turns, sizes)
        found.row = row.version
        found.claim = found.claim if row.owner == self._this_process() else None

    def _version(self, row: ProgramRow, version: VersionRow) -> Program:
        default = self.sessions.default_model()
        return stored_programs.read_version(row, version, self.sessions, default, self._read_neighbours)

    def _this_process(self) -> str:
        if self._owner is None or self._owner_pid != os.getpid():
            # A process that was forked from this one is another one.
            self._owner, self._owner_pid = secrets.token_hex(12), os.getpid()
        return self._owner

    # Sessions and programs

    async def open(self, session_id: str, limits: Mapping[str, Any]) -> dict[str, Any]:
        """Open a session, or set those limits of an open one that are given by name; return its description."""
        check_changeable(session_id, "session_id")
        if self.store is None:
            return self.sessions.open(session_id, limits).describe()
        owner = self._this_process()
        async with self._locks.of("session", session_id):
            seen = await self._seen(session_id)
            known = self.sessions.peek(session_id)
            whole = (BudgetLimits() if known is None else known.budget.limits)._replace(**limits)
            text = terms.dumps(whole._asdict()) if whole.are_set else None
            row = await self.store.write(lambda rows: rows.put_budget(session_id, owner, text, seen))
            session = self.sessions.open(session_id, limits)
            session.row = row
        return session.describe()

    async def _seen(self, session_id: str) -> int | None:
        """Return the version of a session that this process is about to change; ``None``: it is not there yet."""
        await self._refresh(session_id)
        session = self.sessions.peek(session_id)
        if session is None:
            self.sessions.make_room()
        return None if session is None else session.row

    async def configure(self, model: LanguageModel, session_id: str | None) -> None:
        """Set the default model of the port, or that of one session, which is opened if it does not exist."""
        if session_id is None or self.store is None:
            self.sessions.configure(model, session_id)
            return
        check_changeable(session_id, "opts.session_id")
        owner, text = self._this_process(), stored_programs.model_text(model, self.sessions.default_model())
        async with self._locks.of("session", session_id):
            seen = await self._seen(session_id)
            row = await self.store.write(lambda rows: rows.put_session(session_id, owner, text, model.model, seen))
            self.sessions.configure(model, session_id)
            self.sessions.find(session_id).row = row

    async def add_program(self, program: Program) -> None:
        """Add a new program to its session, which is opened if it does not exist."""
        if self.store is None:
            self.sessions.add(program)
            return
        owner = self._this_process()
        await self.refresh(program.session_id)
        self.sessions.make_room()
        self.sessions.check_room()
        version = await self._version_row(program)
        # Made again, the call would add another program.
        asking.note(is_seen=True)
        row = await self.store.write(lambda rows: rows.add_program(program.id, program.session_id, owner, [version]))
        program.row = 1
        self.sessions.add(program)
        session = self.sessions.find(program.session_id)
        session.row = row if session.row is None else session.row

    async def add_version(
        self,
        program: Program,
        knows: Learned,
        compiled: Mapping[str, Any],
        neighbours: Neighbours | None = None,
        *,
        compilation: str | None = None,
    ) -> Program:
        """Add a version of a program that has learned something; errors as :meth:`Sessions.add_version`.

        Args:
            program: The program.
            knows: What its predictors have learned.
            compiled: The report of the compilation.
            neighbours: The examples from which it learns at each call.
            compilation: What distinguishes the compilation, see :meth:`compilation`.
        """
        if self.store is None:
            return self.sessions.add_version(program, knows, compiled, neighbours)
        async with self._locks.of("program", program.id):
            for _ in range(ATTEMPTS - 1):
                with contextlib.suppress(ConflictError):
                    return await self._add_version(self.store, program, knows, compiled, neighbours, compilation)
            return await self._add_version(self.store, program, knows, compiled, neighbours, compilation)

    @contextlib.asynccontextmanager
    async def compilation(
        self, program: Program, compilation: str | None, left_s: float | None = None
    ) -> AsyncIterator[Program | KeptAnswers | None]:
        """Yield what the store has of a compilation: the version that it has made, or what models have answered to it.

        A repetition waits for one that runs, whose version it then is.

        Args:
            program: The program that is compiled.
            compilation: What distinguishes it from every other one, but not from its repetition; ``None``: nothing.
                Then, or without a store, ``None`` is yielded.
            left_s: How long to wait.

        Raises:
            OperationError: Of kind ``timeout``: the same compilation still runs.
        """
        if self.store is None or compilation is None:
            yield None
            return
        async with contextlib.AsyncExitStack() as held:
            lock = self._locks.of("compilation", program.id, compilation)
            try:
                await within_time(held.enter_async_context(lock), left_s)
            except asyncio.TimeoutError:
                message = "the same compilation, which has this request_id too, still runs"
                raise OperationError("timeout", message, stage="queue") from None
            await self._refresh(program.session_id, program_id=program.id)
            number = await self.store.read(lambda rows: rows.version_of(program.id, compilation))
            made = None if number is None else self.sessions.versions(program).get(number)
            yield made or await CompilationAnswers(self.store, program.id, compilation).all()

    async def _add_version(
        self,
        store: Store,
        program: Program,
        knows: Learned,
        compiled: Mapping[str, Any],
        neighbours: Neighbours | None,
        compilation: str | None,
    ) -> Program:
        await self._refresh(program.session_id, program_id=program.id)
        session = self.sessions.peek(program.session_id)
        newest = None if session is None else session.programs.get(program.id)
        seen = UNKNOWN if newest is None or newest.row is None else newest.row
        added = self.sessions.add_version(program, knows, compiled, neighbours)
        owner, row = self._this_process(), None
        try:
            version = await self._version_row(added)
            if compilation is None:
                # Made again, the call would add another version; with a key it is answered with this one.
                asking.note(is_seen=True)
            row = await store.write(lambda rows: rows.add_version(added.id, owner, seen, version, compilation))
        finally:
            if row is None:
                # It is read again, as another process may have added a version: this one is the next after that.
                self.sessions.forget_program(added)
            added.row = row
        return added

    async def _version_row(self, program: Program) -> VersionRow:
        is_heavy = weight.is_heavy(program.source, program.learned, program.neighbours)
        return await weight.aside(stored_programs.version_row, program, self.sessions.default_model(), heavy=is_heavy)

    async def delete_program(self, session_id: str | None, program_id: str) -> Program:
        """Delete a program with its conversations, and return it; errors as :meth:`Sessions.find_program`."""
        async with self._locks.of("program", program_id):
            await self._refresh(*([] if session_id is None else [session_id]), program_id=program_id)
            program = self.sessions.find_program(session_id, program_id)
            check_changeable(program.session_id, "program_id")
            if self.store is not None:
                # Made again, the call would find nothing.
                asking.note(is_seen=True)
                await self.store.delete(lambda rows: rows.delete_program(program_id))
            self.sessions.forget_program(program)
        return program

    async def close(self, session_id: str) -> dict[str, Any]:
        """Close a session, delete its programs, and return its description; errors as :meth:`Sessions.close`."""
        check_changeable(session_id)
        async with self._locks.of("session", session_id):
            described = await self._describe(session_id)
            if self.store is not None:
                # As in :meth:`delete_program`.
                asking.note(is_seen=True)
                await self.store.delete(lambda rows: rows.close_session(session_id))
                self._touched_at.pop(session_id, None)
            self.sessions.close(session_id)
        return described

    async def all(self) -> list[dict[str, Any]]:
        """Return the descriptions of all sessions."""
        if self.store is None:
            return [session.describe() for session in self.sessions.all()]
        rows, spent = await self.store.read(lambda rows: (rows.sessions(), rows.all_spent(stored_budgets.SESSION)))
        return [self._description(row, spent.get(row.id)) for row in rows]

    async def describe(self, session_id: str) -> dict[str, Any]:
        """Return the description of a session, which is not used by that; errors as :meth:`Sessions.find`."""
        await self._locks.passed("session", session_id)
        return await self._describe(session_id)

    async def _describe(self, session_id: str) -> dict[str, Any]:
        await self._refresh(session_id)
        session = self.sessions.find(session_id, is_used=False)
        if self.store is None:
            return session.describe()
        rows, spent = await self.store.read(
            lambda rows: (rows.sessions(session_id), rows.spent(stored_budgets.SESSION, session_id))
        )
        return self._description(rows[0], spent) if rows else session.describe()

    def budgets(self, program: Program | None, session: Session) -> list[Budget]:
        """Return the budgets that pay for a call of a program, or of a module, through a session."""
        of_session = self._budgets.of(stored_budgets.SESSION, session.id, session.budget)
        if program is None:
            return [of_session]
        return [self._budgets.of(stored_budgets.PROGRAM, program.id, program.budget), of_session]

    async def described(self, program: Program) -> dict[str, Any]:
        """Return the description of a program, with what all processes have spent."""
        await self._budgets.of(stored_budgets.PROGRAM, program.id, program.budget).check()
        return program.describe()

    def is_portable(self, program: Program) -> bool:
        """Return whether each process with this store, environment and default model can run a program as this one."""
        if self.store is None:
            return False
        session = self.sessions.find(program.session_id, is_used=False)
        return stored_programs.is_portable(program, session.model, self.sessions.default_model())

    async def programs(self, session_id: str | None, *, is_used: bool = True) -> list[dict[str, Any]]:
        """Return the descriptions of the programs of a session, or of all; errors as :meth:`Sessions.find`."""
        await self.refresh(session_id)
        found = self.sessions.all() if session_id is None else [self.sessions.find(session_id, is_used=is_used)]
        provided = self.sessions.provided() if session_id is None else {}
        known = {**provided, **{key: program for session in found for key, program in session.programs.items()}}
        if self.store is None or session_id == POOL_SESSION:
            return [program.describe() for program in known.values()]
        rows, spent = await self.store.read(
            lambda rows: (rows.programs(session_id), rows.all_spent(stored_budgets.PROGRAM))
        )
        described = [await self.described(program) for program in provided.values()]
        for row in rows:
            one = terms.loads(row.versions[0].description)
            here = known.get(row.id)
            budget = _described(
                BudgetLimits.of(one["budget"]), spent.get(row.id), None if here is None else here.budget
            )
            # Calls are counted by each process.
            described.append({**one, "calls": 0 if here is None else here.calls, "budget": budget})
        return described

    def _description(self, row: SessionRow, spent: SpentRow | None) -> dict[str, Any]:
        known = self.sessions.peek(row.id)
        idle_ms = row.idle_ms if known is None else min(row.idle_ms, known.describe()["idle_ms"])
        return {
            "id": row.id,
            "programs": list(row.programs),
            "model": row.model_name,
            "created_at_ms": row.created_ms,
            "idle_ms": max(0, idle_ms),
            "budget": _described(_limits_of(row), spent, None if known is None else known.budget),
        }

    # Times

    def _touch(self, session_ids: Sequence[str]) -> None:
        """Have the store know that sessions are used; not awaited."""
        if self._expiring is None or self._expiring.done():
            # In a context of its own, without the deadline of this call.
            self._expiring = contextvars.Context().run(asyncio.ensure_future, self._expire())
        now = time.monotonic()
        used = [name for name in session_ids if now - self._touched_at.get(name, -self._touch_s) >= self._touch_s]
        if not used:
            return
        self._touched_at.update(dict.fromkeys(used, now))
        task = asyncio.ensure_future(self._write(lambda rows: rows.touch(used)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self) -> None:
        """Remove sessions and conversations that nobody has used for long from the store, until this process ends."""
        while True:
            now = time.monotonic()
            # What left the registry is not remembered here either.
            self._touched_at = {name: at for name, at in self._touched_at.items() if now - at < self._touch_s}
            await self._touch_used()
            if self.store is not None:
                with contextlib.suppress(OperationError):
                    await self.store.delete(lambda rows: rows.expire(self._ttl_ms))
            await asyncio.sleep(self._touch_s)

    async def _touch_used(self) -> None:
        """Have the store know that what long calls have used all the time is used now."""
        sessions = [session.id for session in self.sessions.all() if session.users]
        conversations = self.sessions.conversations.in_use()
        if sessions or conversations:
            await self._write(lambda rows: rows.touch(sessions, conversations))

    async def _write(self, work: Callable[[Rows], None]) -> None:
        if self.store is not None:
            # Of a failure the call that needs the store tells.
            with contextlib.suppress(OperationError):
                await self.store.write(work)


def _turns_of(program: Program, row: ConversationRow) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the turns of a stored conversation, and the bytes of each."""

    def read() -> list[dict[str, Any]]:
        media.allow_urls(True)
        try:
            return program.turn_fields.converted([terms.loads(body) for body in row.turns], "turns")
        except OperationError as error:
            message = f"conversation {row.id!r} does not fit program {row.program_id!r}, which was another one when it "
            message += f"began: {error.message}; name another conversation, or begin it anew by delete_conversation"
            raise OperationError("store", message, path="opts.conversation") from None

    # In a context of its own: that URLs are allowed here says nothing about those of the call.
    turns = contextvars.copy_context().run(read)
    return turns, [bytes_of(turn) for turn in turns]


def _described(limits: BudgetLimits, spent: SpentRow | None, known: Budget | None) -> dict[str, Any]:
    """Describe a budget: what all processes have spent of it if it has limits, otherwise what this one has."""
    if spent is not None and limits.are_set:
        return Budget("", limits, Spent(spent.tokens, spent.cost)).describe()
    return (Budget("", limits) if known is None else known).describe()


def _limits_of(row: SessionRow) -> BudgetLimits:
    return BudgetLimits() if row.budget is None else BudgetLimits(**terms.loads(row.budget))
