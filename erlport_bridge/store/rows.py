"""Read and change the rows of a store, on one connection. Each change names the version that its writer has seen.

The statements are those that SQLite and PostgreSQL have in common. Times are of the database's own clock. The first
version of a row is the time, so that a session or a conversation that was deleted and begun anew has another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from erlport_bridge.store.conflict import ConflictError
from erlport_bridge.store.names import key_of, name_of
from erlport_bridge.store.records import (
    ConversationRow,
    ProgramRow,
    SessionRow,
    SpentRow,
    TurnRow,
    VersionRow,
    Versions,
)

# How many idle sessions and conversations one transaction removes.
_EXPIRED_AT_ONCE: Final = 500
_TURN_COLUMNS: Final = "program_id, conversation_id, number, request_key, body, bytes, answer"
# Any number, the same for all: who holds this lock migrates.
_MIGRATION_LOCK: Final = 0x64737065785F31


class Cursor(Protocol):
    """What :class:`Rows` needs of a driver's cursor."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement has changed."""

    def execute(self, sql: str, parameters: dict[str, Any], /) -> object:
        """Execute a statement, whose parameters are written ``:name``."""

    def fetchone(self) -> Any:
        """Return the next row."""

    def fetchall(self) -> Sequence[Any]:
        """Return all rows."""


class Rows:
    """The rows of a store, on one connection.

    Args:
        cursor: A cursor of SQLite's driver, or a :class:`.prepared_cursor.PreparedCursor`. SQLAlchemy's results take
            longer than SQLite takes for a statement.
        now_ms: The SQL expression of the database's clock, in milliseconds.
        is_sqlite: Whether the database is SQLite.
    """

    def __init__(self, cursor: Cursor, now_ms: str, *, is_sqlite: bool) -> None:
        self._cursor = cursor
        self._now = now_ms
        self._is_sqlite = is_sqlite

    def ask(self) -> None:
        """Ask the database anything."""
        self.one("SELECT 1 FROM dspex_schema")

    def has_table(self, name: str) -> bool:
        """Return whether the database has a table."""
        if self._is_sqlite:
            tables = "sqlite_master WHERE type = 'table' AND name = :name"
        else:
            # Not `to_regclass`, which would not see what another process has made since it was asked first.
            tables = "pg_class WHERE relname = :name AND pg_table_is_visible(oid)"
        return self.one(f"SELECT 1 FROM {tables}", name=name) is not None

    def lock_schema(self) -> None:
        """Wait until no other process migrates, and keep others from it until the transaction ends."""
        if not self._is_sqlite:  # a transaction of SQLite that writes has the database for itself
            self.one("SELECT pg_advisory_xact_lock(:lock)", lock=_MIGRATION_LOCK)

    def versions(
        self, session_ids: Sequence[str], program_id: str | None, conversation_id: str | None = None
    ) -> Versions:
        """Return the versions of what a call uses, by one statement that looks into indexes only."""
        parts = [f"(SELECT version FROM dspex_sessions WHERE id = :s{index})" for index in range(len(session_ids))]
        given = {f"s{index}": key_of(item) for index, item in enumerate(session_ids)}
        if program_id is not None:
            given["p"] = key_of(program_id)
            parts += [
                "(SELECT version FROM dspex_programs WHERE id = :p)",
                "(SELECT session_id FROM dspex_programs WHERE id = :p)",
                "(SELECT s.version FROM dspex_sessions s JOIN dspex_programs p ON p.session_id = s.id WHERE p.id = :p)",
            ]
        if conversation_id is not None:
            given["c"] = key_of(conversation_id)
            where = "FROM dspex_conversations WHERE program_id = :p AND id = :c)"
            parts += [f"(SELECT version {where}", f"(SELECT owner {where}"]
        found = list(self.one(f"SELECT {', '.join(parts)}", **given) or ())
        count = len(session_ids)
        program = found[count : count + 3] if program_id is not None else [None] * 3
        conversation = found[count + 3 :] or [None] * 2
        return Versions(
            tuple(found[:count]),
            program[0],
            None if program[2] is None else (name_of(str(program[1])), program[2]),
            None if conversation[0] is None else (conversation[0], conversation[1]),
        )

    # Sessions

    def session(self, session_id: str) -> SessionRow | None:
        """Return a session, without the ids of its programs."""
        found = self.one(
            f"SELECT version, model, model_name, budget, created_ms, {self._now} - used_ms FROM dspex_sessions "
            "WHERE id = :id",
            id=key_of(session_id),
        )
        return None if found is None else SessionRow(session_id, *found)

    def sessions(self, session_id: str | None = None) -> list[SessionRow]:
        """Return all sessions, or one, with the ids of their programs, in the order in which they were opened."""
        where = "" if session_id is None else "WHERE s.id = :id"
        found = self.all(
            f"SELECT s.id, s.version, s.model, s.model_name, s.budget, s.created_ms, {self._now} - s.used_ms, p.id "
            f"FROM dspex_sessions s LEFT JOIN dspex_programs p ON p.session_id = s.id {where} "
            "ORDER BY s.created_ms, s.id, p.created_ms, p.id",
            **({} if session_id is None else {"id": key_of(session_id)}),
        )
        rows: dict[str, tuple[Any, list[str]]] = {}
        for row in found:
            _, programs = rows.setdefault(row[0], (row, []))
            if row[7] is not None:
                programs.append(name_of(row[7]))
        return [
            SessionRow(name_of(row[0]), row[1], row[2], row[3], row[4], row[5], row[6], tuple(programs))
            for row, programs in rows.values()
        ]

    def put_session(
        self, session_id: str, owner: str, model: str | None, model_name: str | None, seen: int | None
    ) -> int:
        """Open a session with a model, or set the model of one; return its new version.

        Raises:
            ConflictError: another process has opened or changed it since.
        """
        given = {"id": key_of(session_id), "owner": owner, "model": model, "name": model_name}
        if seen is None:
            return self._open_session(given) or _conflict(f"session {session_id!r}")
        changed = self.run(
            f"UPDATE dspex_sessions SET version = version + 1, owner = :owner, model = :model, model_name = :name, "
            f"used_ms = {self._now} WHERE id = :id AND version = :seen",
            **given,
            seen=seen,
        )
        return seen + 1 if changed.rowcount else _conflict(f"session {session_id!r}")

    def put_budget(self, session_id: str, owner: str, budget: str | None, seen: int | None) -> int:
        """Open a session with a budget, or set the budget of one; return its new version.

        Raises:
            ConflictError: another process has opened or changed it since.
        """
        given = {"id": key_of(session_id), "owner": owner, "budget": budget}
        if seen is None:
            return self._open_session(given) or _conflict(f"session {session_id!r}")
        changed = self.run(
            "UPDATE dspex_sessions SET version = version + 1, owner = :owner, budget = :budget, "
            f"used_ms = {self._now} WHERE id = :id AND version = :seen",
            **given,
            seen=seen,
        )
        return seen + 1 if changed.rowcount else _conflict(f"session {session_id!r}")

    def close_session(self, session_id: str) -> bool:
        """Remove a session with its programs and conversations; return whether there was one."""
        closed = self.run("DELETE FROM dspex_sessions WHERE id = :id", id=key_of(session_id)).rowcount
        self.run("DELETE FROM dspex_spent WHERE kind = 'session' AND id = :id", id=key_of(session_id))
        programs = self.all("SELECT id FROM dspex_programs WHERE session_id = :id", id=key_of(session_id))
        for (program,) in programs:
            self._delete_program(program)
        for program, conversation in self.all(
            "SELECT program_id, id FROM dspex_conversations WHERE session_id = :id", id=key_of(session_id)
        ):
            self._delete_conversation(program, conversation)
        return bool(closed)

    def touch(self, session_ids: Iterable[str], conversations: Iterable[tuple[str, str]] = ()) -> None:
        """Record that sessions are used, and conversations of programs."""
        for session_id in session_ids:
            self.run(f"UPDATE dspex_sessions SET used_ms = {self._now} WHERE id = :id", id=key_of(session_id))
        for program_id, conversation_id in conversations:
            self.run(
                f"UPDATE dspex_conversations SET used_ms = {self._now} WHERE program_id = :program AND id = :id",
                program=key_of(program_id),
                id=key_of(conversation_id),
            )

    def expire(self, ttl_ms: int) -> None:
        """Remove sessions and conversations that nobody has used for ``ttl_ms``."""
        idle = f"used_ms < {self._now} - :ttl LIMIT {_EXPIRED_AT_ONCE}"
        for (session,) in self.all(f"SELECT id FROM dspex_sessions WHERE {idle}", ttl=ttl_ms):
            self.close_session(name_of(session))
        for row in self.all(f"SELECT program_id, id FROM dspex_conversations WHERE {idle}", ttl=ttl_ms):
            self._delete_conversation(*row)
        # Of a compilation that nobody has repeated.
        self.run(f"DELETE FROM dspex_answers WHERE kept_ms < {self._now} - :ttl", ttl=ttl_ms)

    # Budgets

    def spent(self, kind: str, owner_id: str) -> SpentRow:
        """Return what a ``session`` or ``program`` has spent."""
        found = self.one(
            "SELECT cost, tokens, unpriced, uncounted FROM dspex_spent WHERE kind = :kind AND id = :id",
            kind=kind,
            id=key_of(owner_id),
        )
        return SpentRow() if found is None else SpentRow(*found)

    def all_spent(self, kind: str) -> dict[str, SpentRow]:
        """Return what all sessions or programs with a budget have spent, by their ids."""
        found = self.all("SELECT id, cost, tokens, unpriced, uncounted FROM dspex_spent WHERE kind = :kind", kind=kind)
        return {name_of(row[0]): SpentRow(*row[1:]) for row in found}

    def spend(self, kind: str, owner_id: str, added: SpentRow) -> SpentRow:
        """Add to what a ``session`` or ``program`` has spent; return the sum."""
        columns = SpentRow._fields
        sums = ", ".join(f"{name} = dspex_spent.{name} + excluded.{name}" for name in columns)
        return SpentRow(
            *self.one(
                f"INSERT INTO dspex_spent (kind, id, {', '.join(columns)}) "
                f"VALUES (:kind, :id, :cost, :tokens, :unpriced, :uncounted) "
                f"ON CONFLICT (kind, id) DO UPDATE SET {sums} RETURNING {', '.join(columns)}",
                kind=kind,
                id=key_of(owner_id),
                **added._asdict(),
            )
        )

    # Programs

    def program(self, program_id: str) -> ProgramRow | None:
        """Return a program with all its versions."""
        rows = self.all(
            "SELECT p.session_id, p.version, v.number, v.body, v.description FROM dspex_programs p "
            "JOIN dspex_versions v ON v.program_id = p.id WHERE p.id = :id ORDER BY v.number",
            id=key_of(program_id),
        )
        if not rows:
            return None
        return ProgramRow(program_id, name_of(rows[0][0]), rows[0][1], tuple(VersionRow(*row[2:]) for row in rows))

    def programs(self, session_id: str | None = None) -> list[ProgramRow]:
        """Return the programs of a session, or of all, each with its newest version, in the order of their creation."""
        where = "" if session_id is None else "AND p.session_id = :id"
        rows = self.all(
            "SELECT p.id, p.session_id, p.version, v.number, v.description FROM dspex_programs p "
            "JOIN dspex_versions v ON v.program_id = p.id "
            f"WHERE v.number = (SELECT max(number) FROM dspex_versions WHERE program_id = p.id) {where} "
            "ORDER BY p.created_ms, p.id",
            **({} if session_id is None else {"id": key_of(session_id)}),
        )
        return [ProgramRow(name_of(row[0]), name_of(row[1]), row[2], (VersionRow(row[3], "", row[4]),)) for row in rows]

    def add_program(self, program_id: str, session_id: str, owner: str, versions: Sequence[VersionRow]) -> int:
        """Add a program to a session, which is opened if there is none; return the version of the session."""
        # The session stays locked until the end of the transaction, so that nobody closes it meanwhile.
        given = {"id": key_of(session_id), "owner": owner, "model": None, "name": None}
        self.run(f"UPDATE dspex_sessions SET used_ms = {self._now} WHERE id = :id", id=given["id"])
        found = self.one("SELECT version FROM dspex_sessions WHERE id = :id", id=given["id"])
        version = self._open_session(given) if found is None else found[0]
        self.run(
            "INSERT INTO dspex_programs (id, session_id, version, owner, created_ms) "
            f"VALUES (:id, :session, 1, :owner, {self._now})",
            id=key_of(program_id),
            session=given["id"],
            owner=owner,
        )
        for one in versions:
            self._add_version(program_id, one)
        return int(version or _conflict(f"session {session_id!r}"))

    def add_version(
        self, program_id: str, owner: str, seen: int, added: VersionRow, compilation: str | None = None
    ) -> int:
        """Add a version of a program; return the new version of its row.

        Args:
            program_id: The program.
            owner: The process that adds it.
            seen: The version of the row that this process has seen.
            added: The version.
            compilation: The compilation that made it, whose kept answers go.

        Raises:
            ConflictError: another process has changed or deleted it since.
        """
        changed = self.run(
            "UPDATE dspex_programs SET version = version + 1, owner = :owner WHERE id = :id AND version = :seen",
            id=key_of(program_id),
            owner=owner,
            seen=seen,
        )
        if not changed.rowcount:
            _conflict(f"program {program_id!r}")
        self._add_version(program_id, added, compilation)
        if compilation is not None:
            self.forget_answers(program_id, compilation)
        return seen + 1

    def version_of(self, program_id: str, compilation: str) -> int | None:
        """Return the number of the version that a compilation has made; ``None``: it has not ended."""
        found = self.one(
            "SELECT number FROM dspex_versions WHERE program_id = :id AND compilation = :compilation",
            id=key_of(program_id),
            compilation=compilation,
        )
        return None if found is None else int(found[0])

    # What models have answered to compilations

    def count_answers(self, program_id: str, compilation: str) -> int:
        """Return how many answers are kept for a compilation."""
        found = self.one(
            "SELECT count(*) FROM dspex_answers WHERE program_id = :id AND compilation = :compilation",
            id=key_of(program_id),
            compilation=compilation,
        )
        return int(found[0])

    def kept_answer(self, program_id: str, compilation: str, request: str, number: int) -> str | None:
        """Return what a model has answered to a compilation.

        Args:
            program_id: The program.
            compilation: The compilation.
            request: The request's hash.
            number: How many equal requests the compilation has made before.
        """
        found = self.one(
            "SELECT body FROM dspex_answers WHERE program_id = :id AND compilation = :compilation "
            "AND request = :request AND number = :number",
            id=key_of(program_id),
            compilation=compilation,
            request=request,
            number=number,
        )
        return None if found is None else str(found[0])

    def keep_answer(self, program_id: str, compilation: str, request: str, number: int, body: str) -> None:
        """Keep what a model has answered to a compilation; the first answer stays."""
        self.run(
            "INSERT INTO dspex_answers (program_id, compilation, request, number, body, kept_ms) "
            f"VALUES (:id, :compilation, :request, :number, :body, {self._now}) ON CONFLICT DO NOTHING",
            id=key_of(program_id),
            compilation=compilation,
            request=request,
            number=number,
            body=body,
        )

    def forget_answers(self, program_id: str, compilation: str) -> None:
        """Remove what is kept for a compilation."""
        self.run(
            "DELETE FROM dspex_answers WHERE program_id = :id AND compilation = :compilation",
            id=key_of(program_id),
            compilation=compilation,
        )

    def delete_program(self, program_id: str) -> bool:
        """Remove a program with its conversations; return whether there was one."""
        return self._delete_program(key_of(program_id))

    # Conversations

    def conversation(self, program_id: str, conversation_id: str) -> ConversationRow | None:
        """Return a conversation with its turns, the oldest first."""
        rows = self.all(
            f"SELECT c.session_id, c.version, c.owner, c.created_ms, {self._now} - c.used_ms, t.body "
            "FROM dspex_conversations c "
            "LEFT JOIN dspex_turns t ON t.program_id = c.program_id AND t.conversation_id = c.id "
            "WHERE c.program_id = :program AND c.id = :id ORDER BY t.number",
            program=key_of(program_id),
            id=key_of(conversation_id),
        )
        if not rows:
            return None
        session, version, owner, created_ms, idle_ms, _ = rows[0]
        turns = tuple(row[5] for row in rows if row[5] is not None)
        through = None if session is None else name_of(session)
        return ConversationRow(conversation_id, program_id, through, version, owner, created_ms, idle_ms, turns)

    def conversations(self, program_id: str) -> list[ConversationRow]:
        """Return the conversations of a program without their turns, in the order in which they began."""
        rows = self.all(
            f"SELECT c.id, c.session_id, c.version, c.owner, c.created_ms, {self._now} - c.used_ms, "
            "count(t.number), coalesce(sum(t.bytes), 0) FROM dspex_conversations c "
            "LEFT JOIN dspex_turns t ON t.program_id = c.program_id AND t.conversation_id = c.id "
            "WHERE c.program_id = :program GROUP BY c.program_id, c.id ORDER BY c.created_ms, c.id",
            program=key_of(program_id),
        )
        found = []
        for name, session, version, owner, created_ms, idle_ms, count, size in rows:
            through = None if session is None else name_of(session)
            row = ConversationRow(name_of(name), program_id, through, version, owner, created_ms, idle_ms)
            found.append(replace(row, turn_count=count, size=int(size)))
        return found

    def claim(
        self,
        program_id: str,
        conversation_id: str,
        session_id: str | None,
        owner: str,
        seen: int | None,
        *,
        is_stored: bool = True,
    ) -> int:
        """Become the owner of a conversation, which begins if there is none; return its new version.

        From now on, no other process can add a turn to it without claiming it first. If its program is stored, it must
        still be there.

        Raises:
            ConflictError: another process has begun or changed it since.
        """
        given = {"program": key_of(program_id), "id": key_of(conversation_id), "owner": owner}
        if seen is not None:
            found = self.one(
                "UPDATE dspex_conversations SET version = version + 1, owner = :owner "
                "WHERE program_id = :program AND id = :id AND version = :seen RETURNING version",
                **given,
                seen=seen,
            )
        else:
            exists = "EXISTS (SELECT 1 FROM dspex_programs WHERE id = :program)" if is_stored else "true"
            found = self.one(
                "INSERT INTO dspex_conversations (program_id, id, session_id, version, owner, created_ms, used_ms) "
                f"SELECT :program, :id, :session, {self._now}, :owner, {self._now}, {self._now} "
                f"WHERE {exists} ON CONFLICT DO NOTHING RETURNING version",
                **given,
                session=None if session_id is None else key_of(session_id),
            )
        return int(found[0]) if found is not None else _conflict(f"conversation {conversation_id!r}")

    def answered(self, program_id: str, conversation_id: str, key: str) -> str | None:
        """Return the answer of the call with this key; ``None``: it has added no turn."""
        found = self.one(
            "SELECT answer FROM dspex_turns WHERE program_id = :program AND conversation_id = :id "
            "AND request_key = :key",
            program=key_of(program_id),
            id=key_of(conversation_id),
            key=key,
        )
        return None if found is None else found[0]

    def append(
        self, program_id: str, conversation_id: str, owner: str, seen: int, turns: Sequence[TurnRow], keep: int | None
    ) -> int | None:
        """Add turns to a conversation and forget all but the last ``keep``; ``None``: forget none.

        Returns:
            The new version; ``None``: the conversation has been deleted.

        Raises:
            ConflictError: another process has claimed or changed it since.
        """
        given = {"program": key_of(program_id), "id": key_of(conversation_id)}
        changed = self.run(
            f"UPDATE dspex_conversations SET version = version + {len(turns) or 1}, used_ms = {self._now} "
            "WHERE program_id = :program AND id = :id AND owner = :owner AND version = :seen",
            **given,
            owner=owner,
            seen=seen,
        )
        if not changed.rowcount:
            self._check_deleted(given, conversation_id)
            return None
        for number, turn in enumerate(turns, seen + 1):
            added = self.run(
                f"INSERT INTO dspex_turns ({_TURN_COLUMNS}) "
                "VALUES (:program, :id, :number, :key, :body, :bytes, :answer) ON CONFLICT DO NOTHING",
                **given,
                number=number,
                **_turn_values(turn),
            )
            if not added.rowcount:
                _conflict(f"conversation {conversation_id!r}")
        if keep is not None:
            self.run(
                "DELETE FROM dspex_turns WHERE program_id = :program AND conversation_id = :id AND number <= "
                "(SELECT number FROM dspex_turns WHERE program_id = :program AND conversation_id = :id "
                "ORDER BY number DESC LIMIT 1 OFFSET :keep)",
                **given,
                keep=keep,
            )
        return seen + (len(turns) or 1)

    def append_turn(self, program_id: str, conversation_id: str, owner: str, seen: int, turn: TurnRow) -> int | None:
        """Add one turn to a conversation and forget none, by one statement where there can be one."""
        if self._is_sqlite:
            return self.append(program_id, conversation_id, owner, seen, [turn], None)
        given = {"program": key_of(program_id), "id": key_of(conversation_id)}
        added = self.one(
            f"WITH changed AS (UPDATE dspex_conversations SET version = version + 1, used_ms = {self._now} "
            "WHERE program_id = :program AND id = :id AND owner = :owner AND version = :seen RETURNING version) "
            f"INSERT INTO dspex_turns ({_TURN_COLUMNS}) "
            "SELECT :program, :id, version, :key, :body, :bytes, :answer FROM changed "
            # A second turn with this key fails the statement, so it changes nothing.
            "RETURNING number",
            **given,
            owner=owner,
            seen=seen,
            **_turn_values(turn),
        )
        if added is None:
            self._check_deleted(given, conversation_id)
            return None
        return int(added[0])

    def delete_conversation(self, program_id: str, conversation_id: str) -> bool:
        """Remove a conversation; return whether there was one."""
        return self._delete_conversation(key_of(program_id), key_of(conversation_id))

    def _check_deleted(self, given: dict[str, Any], conversation_id: str) -> None:
        """Check that a conversation that could not be changed has been deleted.

        Raises:
            ConflictError: It is there, so another process has claimed or changed it.
        """
        where = "WHERE program_id = :program AND id = :id"
        if self.one(f"SELECT 1 FROM dspex_conversations {where}", **given) is not None:
            _conflict(f"conversation {conversation_id!r}")

    def _open_session(self, given: dict[str, Any]) -> int:
        """Open a session; return its version, or 0 if there is one already."""
        opened = self.one(
            "INSERT INTO dspex_sessions (id, version, owner, model, model_name, budget, created_ms, used_ms) "
            f"VALUES (:id, {self._now}, :owner, :model, :name, :budget, {self._now}, {self._now}) "
            "ON CONFLICT DO NOTHING RETURNING version",
            **{"model": None, "name": None, "budget": None, **given},
        )
        return 0 if opened is None else int(opened[0])

    def _add_version(self, program_id: str, added: VersionRow, compilation: str | None = None) -> None:
        self.run(
            "INSERT INTO dspex_versions (program_id, number, body, description, compilation) "
            "VALUES (:id, :number, :body, :description, :compilation)",
            id=key_of(program_id),
            number=added.number,
            body=added.body,
            description=added.description,
            compilation=compilation,
        )

    def _delete_program(self, key: str) -> bool:
        deleted = self.run("DELETE FROM dspex_programs WHERE id = :id", id=key).rowcount
        for statement in (
            "DELETE FROM dspex_versions WHERE program_id = :id",
            "DELETE FROM dspex_answers WHERE program_id = :id",
            "DELETE FROM dspex_spent WHERE kind = 'program' AND id = :id",
            "DELETE FROM dspex_conversations WHERE program_id = :id",
            "DELETE FROM dspex_turns WHERE program_id = :id",
        ):
            self.run(statement, id=key)
        return bool(deleted)

    def _delete_conversation(self, program: str, conversation: str) -> bool:
        given = {"program": program, "id": conversation}
        where = "WHERE program_id = :program AND"
        deleted = self.run(f"DELETE FROM dspex_conversations {where} id = :id", **given).rowcount
        self.run(f"DELETE FROM dspex_turns {where} conversation_id = :id", **given)
        return bool(deleted)

    def run(self, sql: str, **given: Any) -> Cursor:
        """Execute a statement whose parameters are written ``:name``."""
        self._cursor.execute(sql, given)
        return self._cursor

    def one(self, sql: str, **given: Any) -> Any:
        """Return the row of a statement; ``None``: there is none."""
        return self.run(sql, **given).fetchone()

    def all(self, sql: str, **given: Any) -> Sequence[Any]:
        """Return the rows of a statement."""
        return self.run(sql, **given).fetchall()


def _turn_values(turn: TurnRow) -> dict[str, Any]:
    return {"key": turn.key, "body": turn.body, "bytes": len(turn.body), "answer": turn.answer}


def _conflict(what: str) -> int:
    message = f"{what} was changed by another worker meanwhile; nothing of this call is stored: call again"
    raise ConflictError(message)
