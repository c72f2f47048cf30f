"""Open the database of a store and run work on it, each in the calling thread: engines, pragmas, rights of the file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from erlport_bridge.errors import OperationError
from erlport_bridge.store import schema
from erlport_bridge.store.address import SQLITE, Address
from erlport_bridge.store.conflict import ConflictError
from erlport_bridge.store.failures import is_full, removed_error, store_error
from erlport_bridge.store.open_files import OpenFiles
from erlport_bridge.store.reserve import LOG_PAGES, Reserve
from erlport_bridge.store.rows import Rows

_Result = TypeVar("_Result")

#: How long a statement waits for a lock of another process, and a connection for its server.
PATIENCE_S: Final = 5
# Any number, the same for all: who holds this lock migrates.
_KEY_EXISTS: Final = "23505"  # PostgreSQL's
_MIGRATION_LOCK: Final = 0x64737065785F31
#: The clock of the database in milliseconds. One clock, so that workers whose own clocks differ agree.
_NOW_MS: Final = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}


class Database:
    """The open database of a store. All methods may be called from several threads.

    Raises:
        OperationError: Of kind ``store``: it cannot be opened, or its schema is newer.
    """

    def __init__(self, address: Address, connections: int) -> None:
        self.shown = address.shown
        self._is_sqlite = address.database == SQLITE
        self._glancing: sqlite3.Connection | None = None
        self._now_ms = _NOW_MS[address.database]
        if self._is_sqlite:
            self._reading, self._writing = _sqlite_engines(address)
        else:
            self._reading, self._writing = _postgresql_engines(address, connections)
        # `Any`: the drivers have no class in common.
        self._driver_error: Any = self._writing.dialect.loaded_dbapi.Error
        try:
            with self._failures(), self._writing.begin() as connection:
                self._migrate(connection)
            # They are open as long as the engines are: a connection that has read holds a lock, and no other process
            # that closes the database removes them.
            self._files = OpenFiles(str(address.path)) if self._is_sqlite else None
            self._reserve = Reserve(str(address.path)) if self._is_sqlite else None
        except BaseException:
            self.close()
            raise
        if self._reserve is not None:
            self._reserve.make()
            # Without waiting for locks; and not only for the thread that opens the store.
            self._glancing = sqlite3.connect(
                str(address.path), timeout=0, isolation_level=None, check_same_thread=False
            )

    def read(self, work: Callable[[Rows], _Result]) -> _Result:
        """Run work that only reads, without a transaction around it; errors as :meth:`write`."""
        with self._failures():
            result = self._run(self._reading, work)
        self._check_files(now=False)
        return result

    def glance(self, work: Callable[[Rows], _Result]) -> _Result | None:
        """Run a small read in SQLite that waits for nobody; ``None``: :meth:`read` must do it. For one thread only."""
        if self._glancing is None:
            return None
        try:
            cursor = self._glancing.cursor()
            try:
                result = work(Rows(cursor, self._now_ms, is_sqlite=True))
            finally:
                cursor.close()
        except sqlite3.Error:
            # Locked for a moment, or broken, which is told by the other connection.
            return None
        self._check_files(now=False)
        return result

    def change(self, work: Callable[[Rows], _Result]) -> _Result:
        """Run work that changes rows by one statement, or by several in SQLite; errors as :meth:`write`.

        PostgreSQL needs no transaction for that, whose begin and end go to the server and back each. A key that is
        there already is a :class:`ConflictError`.
        """
        if self._is_sqlite:
            return self.write(work)
        with self._failures():
            try:
                # What has lost its connection may be stored.
                return self._run(self._reading, work, repeats=False)
            except self._driver_error as error:
                if error.sqlstate != _KEY_EXISTS:
                    raise
        raise ConflictError("a row was changed by another worker meanwhile; nothing of this call is stored: call again")

    def write(self, work: Callable[[Rows], _Result], *, deletes: bool = False) -> _Result:
        """Run work in one transaction; what it changed is on its way to the disk when this returns.

        Args:
            work: Changes rows.
            deletes: Whether it makes room, so that it may use the room that is kept for this on a full disk.

        Raises:
            OperationError: Of kind ``store``. Nothing of the work is stored, unless the connection broke while the
                transaction ended.
        """
        with self._failures():
            try:
                result = self._commit(work)
            except self._driver_error as error:
                if self._reserve is None or not is_full(error):
                    raise
                result = self._commit_on_full_disk(work, self._reserve, deletes=deletes)
        # After the commit, so that nothing is acknowledged that was stored in a file without a name.
        self._check_files(now=True)
        return result

    def _commit(self, work: Callable[[Rows], _Result]) -> _Result:
        # One that begins with a read could not go on when another process has written meanwhile.
        begin = "BEGIN IMMEDIATE" if self._is_sqlite else None
        return self._run(self._writing, work, begin=begin, commits=True)

    def _commit_on_full_disk(self, work: Callable[[Rows], _Result], reserve: Reserve, *, deletes: bool) -> _Result:
        # The log may have room that nothing needs any more.
        self._empty_log()
        try:
            return self._commit(work)
        except self._driver_error as error:
            if not (deletes and is_full(error)):
                raise
        reserve.give()
        try:
            self._empty_log()
            result = self._commit(work)
            self._empty_log()
        finally:
            reserve.take()
        return result

    def _empty_log(self) -> None:
        """Write SQLite's log to its file, if the disk has room for that."""
        with contextlib.suppress(sqlite3.Error):
            connection = self._reading.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()

    def snapshot(self, work: Callable[[Rows], _Result]) -> _Result:
        """Run work that reads the database as it is at one moment; errors as :meth:`write`."""
        begin = "BEGIN" if self._is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self._failures():
            result = self._run(self._reading, work, begin=begin)
        self._check_files(now=True)
        return result

    def close(self) -> None:
        """Close all connections."""
        self._reading.dispose()
        self._writing.dispose()
        if self._glancing is not None:
            self._glancing.close()

    def _check_files(self, *, now: bool) -> None:
        if self._files is not None and not self._files.are_there(now=now):
            raise removed_error(self.shown)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, self._driver_error, sqlite3.Error) as error:
            raise store_error(error, self.shown) from None

    def _run(
        self,
        engine: Engine,
        work: Callable[[Rows], _Result],
        *,
        begin: str | None = None,
        commits: bool = False,
        repeats: bool = True,
    ) -> _Result:
        """Run work on a connection; once more on another one if the connection is lost, and nothing can be stored."""
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            if begin is not None:
                cursor.execute(begin)
            result = work(Rows(cursor, self._now_ms, is_sqlite=self._is_sqlite))
            # What fails while a transaction ends may have been stored.
            repeats = False
            if commits:
                connection.commit()
            cursor.close()
        except self._driver_error as error:
            if not engine.dialect.is_disconnect(error, connection.dbapi_connection, None):
                raise
            # The server was restarted since the last use of this connection, and the others are as old.
            connection.invalidate()
            engine.dispose()
            if not repeats:
                raise
        else:
            return result
        finally:
            # Ends a transaction that is still open.
            connection.close()
        return self._run(engine, work, begin=begin, commits=commits, repeats=False)

    def _migrate(self, connection: Connection) -> None:
        if schema.version_of(connection) == schema.VERSION:
            return
        if not self._is_sqlite:  # a transaction of SQLite that writes has the database for itself
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        schema.migrate(connection, self.shown)


def _sqlite_engines(address: Address) -> tuple[Engine, Engine]:
    path = str(address.path)
    try:
        _make_private(path)
    except OSError as error:
        raise store_error(error, address.shown) from None
    options: dict[str, Any] = {"connect_args": {"timeout": PATIENCE_S}, "hide_parameters": True}
    # Not as text, in which a ? of the name would end it.
    url = URL.create("sqlite", database=path)
    reading = create_engine(url, isolation_level="AUTOCOMMIT", **options)
    writing = create_engine(url, **options)

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # Transactions begin by the listener below.
        connection.isolation_level = None
        _set_wal(connection)
        connection.execute(f"PRAGMA synchronous = {address.synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")

    def begin(connection: Connection) -> None:
        # Only while the schema is looked at: see `Database.write`.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    for engine in (reading, writing):
        event.listen(engine, "connect", configure)
    event.listen(writing, "begin", begin)
    return reading, writing


def _set_wal(connection: sqlite3.Connection) -> None:
    """Have readers and the writer not wait for each other. The first process sets it, for which no lock is waited."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.01)
        else:
            return


def _make_private(path: str) -> None:
    """Make the file of a store, and its folder, so that only this user can read them; leave what is there as it is."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) and os.path.isdir(os.path.dirname(folder)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, stat.S_IRWXU)
    # SQLite gives the files beside it the same rights.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, stat.S_IRUSR | stat.S_IWUSR))


def _postgresql_engines(address: Address, connections: int) -> tuple[Engine, Engine]:
    settings = f"-c statement_timeout={2 * PATIENCE_S * 1000} -c lock_timeout={PATIENCE_S * 1000}"
    options: dict[str, Any] = {
        "pool_size": connections,
        "max_overflow": 0,
        "hide_parameters": True,
        "connect_args": {"connect_timeout": PATIENCE_S, "options": settings, "application_name": "dspex"},
    }
    try:
        reading = create_engine(address.url, isolation_level="AUTOCOMMIT", **options)
        writing = create_engine(address.url, **options)
    except ImportError:
        message = "a store in PostgreSQL needs psycopg; install erlport_bridge[postgres]"
        raise OperationError("missing_dependency", message) from None
    return reading, writing
