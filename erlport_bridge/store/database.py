"""Open the database of a store and run work on it, each in the calling thread."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from erlport_bridge.store import schema
from erlport_bridge.store.address import SQLITE, Address
from erlport_bridge.store.conflict import ConflictError
from erlport_bridge.store.connections import PATIENCE_S, Connections
from erlport_bridge.store.failures import is_full, is_locked, removed_error, store_error
from erlport_bridge.store.open_files import OpenFiles
from erlport_bridge.store.reserve import Reserve
from erlport_bridge.store.rows import Rows

_Result = TypeVar("_Result")

_KEY_EXISTS: Final = "23505"  # PostgreSQL's
#: The clock of the database in milliseconds. One clock, so that workers whose own clocks differ agree.
_NOW_MS: Final = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
# How long a glance may wait for PostgreSQL. Less cannot be said to the system.
_GLANCE_MS: Final = 1
# How long to wait before SQLite is asked again whether another process has done with its lock.
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.025


class Database:
    """The open database of a store. All methods may be called from several threads.

    Raises:
        OperationError: Of kind ``store``: it cannot be opened, or its schema is newer.
    """

    def __init__(self, address: Address) -> None:
        self.shown = address.shown
        self._is_sqlite = address.database == SQLITE
        self._now_ms = _NOW_MS[address.database]
        self._connections = Connections(address)
        self._driver_error = self._connections.driver_error
        # One that begins with a read could not go on when another process has written meanwhile.
        self._begin = "BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN"
        try:
            with self._failures():
                self._run(lambda rows: schema.migrate(rows, self.shown), begin=self._begin)
            # They are open as long as a connection is: one that has read holds a lock, and no other process that closes
            # the database removes them.
            self._files = OpenFiles(str(address.path)) if self._is_sqlite else None
            self._reserve = Reserve(str(address.path)) if self._is_sqlite else None
        except BaseException:
            self.close()
            raise
        if self._reserve is not None:
            self._reserve.make()

    def read(self, work: Callable[[Rows], _Result]) -> _Result:
        """Run work that only reads, without a transaction around it; errors as :meth:`write`."""
        with self._failures():
            result = self._run(work)
        self._check_files(now=False)
        return result

    def glance(self, work: Callable[[Rows], _Result]) -> _Result | None:
        """Run a small read that waits for no lock, and for a server a moment; ``None``: :meth:`read` must do it."""
        connection = self._connections.take_idle()
        if connection is None:
            return None
        cursor = connection.cursor or connection.pooled.cursor()
        if not self._is_sqlite:
            cursor.most_ms = _GLANCE_MS
        try:
            result: _Result | None = work(Rows(cursor, self._now_ms, is_sqlite=self._is_sqlite))
        except self._driver_error:
            # Locked, late or broken, which the next user of the connection sees.
            return None
        finally:
            if not self._is_sqlite:
                cursor.most_ms = None
            cursor.close()
            self._connections.give_back(connection)
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
                return self._run(work, repeats=False)
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
        return self._run(work, begin=self._begin)

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
        with contextlib.suppress(self._driver_error):
            self._run(_empty_log)

    def leave(self) -> None:
        """Write SQLite's log to its file, so that a copy of it has everything; wait for nobody, and open nothing."""
        connection = self._connections.take_idle() if self._is_sqlite else None
        if connection is not None:
            with contextlib.suppress(self._driver_error):
                connection.pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def snapshot(self, work: Callable[[Rows], _Result]) -> _Result:
        """Run work that reads the database as it is at one moment; errors as :meth:`write`."""
        begin = "BEGIN" if self._is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self._failures():
            result = self._run(work, begin=begin)
        self._check_files(now=True)
        return result

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _check_files(self, *, now: bool) -> None:
        if self._files is not None and not self._files.are_there(now=now):
            raise removed_error(self.shown)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, self._driver_error, sqlite3.Error) as error:
            raise store_error(error, self.shown) from None

    def _run(self, work: Callable[[Rows], _Result], *, begin: str | None = None, repeats: bool = True) -> _Result:
        """Run work, in a transaction that a statement begins.

        It is run again on another connection if its own one was lost before, and as long as SQLite is locked by another
        process, since no connection waits for that itself: a glance must not.

        Args:
            work: The work.
            begin: Begins the transaction; ``None``: each statement is one.
            repeats: Whether nothing of the work can be stored when its connection is lost.
        """
        ends_at, pause_s, was_lost = time.monotonic() + PATIENCE_S, _FIRST_PAUSE_S, False
        while True:
            connection = self._connections.take()
            cursor: Any = None
            try:
                cursor = connection.cursor or connection.pooled.cursor()
                if begin is not None:
                    cursor.execute(begin)
                result = work(Rows(cursor, self._now_ms, is_sqlite=self._is_sqlite))
                if begin is not None:
                    # What fails while a transaction ends may have been stored.
                    repeats = False
                    cursor.execute("COMMIT")
                cursor.close()
            except BaseException as error:
                if cursor is not None:
                    cursor.close()
                is_lost = self._connections.give_back_failed(connection, error)
                waits = self._is_sqlite and is_locked(error) and time.monotonic() < ends_at
                if not repeats or was_lost or not (is_lost or waits):
                    raise
                was_lost = is_lost
            else:
                self._connections.give_back(connection)
                return result
            if waits:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _empty_log(rows: Rows) -> None:
    rows.all(f"PRAGMA busy_timeout = {PATIENCE_S * 1000}")
    try:
        rows.all("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        rows.all("PRAGMA busy_timeout = 0")
