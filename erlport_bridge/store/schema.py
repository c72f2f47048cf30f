"""The tables of a store, as numbered migrations. An older schema is migrated under a lock, and a newer one is refused.

A migration never changes once it is released: a change of the tables is another migration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from erlport_bridge.errors import OperationError

if TYPE_CHECKING:
    from erlport_bridge.store.rows import Rows

#: The statements of each migration, which lead from the schema before to that of its number, counted from 1.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE dspex_sessions (
            id TEXT PRIMARY KEY, version BIGINT NOT NULL, owner TEXT NOT NULL, model TEXT, model_name TEXT,
            budget TEXT, created_ms BIGINT NOT NULL, used_ms BIGINT NOT NULL)""",
        "CREATE INDEX dspex_sessions_used ON dspex_sessions (used_ms)",
        """CREATE TABLE dspex_programs (
            id TEXT PRIMARY KEY, session_id TEXT NOT NULL, version BIGINT NOT NULL, owner TEXT NOT NULL,
            created_ms BIGINT NOT NULL)""",
        "CREATE INDEX dspex_programs_session ON dspex_programs (session_id, created_ms)",
        """CREATE TABLE dspex_versions (
            program_id TEXT NOT NULL, number BIGINT NOT NULL, body TEXT NOT NULL, description TEXT NOT NULL,
            PRIMARY KEY (program_id, number))""",
        """CREATE TABLE dspex_conversations (
            program_id TEXT NOT NULL, id TEXT NOT NULL, session_id TEXT, version BIGINT NOT NULL, owner TEXT NOT NULL,
            created_ms BIGINT NOT NULL, used_ms BIGINT NOT NULL, PRIMARY KEY (program_id, id))""",
        "CREATE INDEX dspex_conversations_session ON dspex_conversations (session_id)",
        """CREATE TABLE dspex_turns (
            program_id TEXT NOT NULL, conversation_id TEXT NOT NULL, number BIGINT NOT NULL, request_key TEXT,
            body TEXT NOT NULL, bytes BIGINT NOT NULL, answer TEXT,
            PRIMARY KEY (program_id, conversation_id, number))""",
        "CREATE UNIQUE INDEX dspex_turns_once ON dspex_turns (program_id, conversation_id, request_key)",
    ),
    (
        # What distinguishes the compilation that made a version, so that its repetition makes no second one.
        "ALTER TABLE dspex_versions ADD COLUMN compilation TEXT",
        # What models have answered to a compilation that has not ended.
        """CREATE TABLE dspex_answers (
            program_id TEXT NOT NULL, compilation TEXT NOT NULL, request TEXT NOT NULL, number BIGINT NOT NULL,
            body TEXT NOT NULL, kept_ms BIGINT NOT NULL, PRIMARY KEY (program_id, compilation, request, number))""",
        "CREATE INDEX dspex_answers_kept ON dspex_answers (kept_ms)",
        # What sessions and programs with a budget have spent on models.
        """CREATE TABLE dspex_spent (
            kind TEXT NOT NULL, id TEXT NOT NULL, cost DOUBLE PRECISION NOT NULL, tokens BIGINT NOT NULL,
            unpriced BIGINT NOT NULL, uncounted BIGINT NOT NULL, PRIMARY KEY (kind, id))""",
    ),
)
#: The schema of this version of the package.
VERSION: Final = len(MIGRATIONS)


def version_of(rows: Rows) -> int:
    """Return the schema of a store; 0: it has no tables yet."""
    if not rows.has_table("dspex_schema"):
        return 0
    return int(rows.one("SELECT max(version) FROM dspex_schema")[0] or 0)


def migrate(rows: Rows, shown: str) -> None:
    """Bring a store to the schema of this version, in a transaction that keeps others from doing so too.

    Raises:
        OperationError: Of kind ``store``: its schema is newer.
    """
    if version_of(rows) == VERSION:
        return
    rows.lock_schema()
    found = version_of(rows)
    if found > VERSION:
        message = f"the store at {shown} has schema {found}, of a newer erlport_bridge; this one has schema {VERSION}: "
        raise OperationError("store", f"{message}install the newer erlport_bridge here too, or name another store")
    if found == 0:
        rows.run("CREATE TABLE IF NOT EXISTS dspex_schema (version BIGINT NOT NULL)")
    for number in range(found, VERSION):
        for statement in MIGRATIONS[number]:
            rows.run(statement)
        rows.run("INSERT INTO dspex_schema (version) VALUES (:version)", version=number + 1)
