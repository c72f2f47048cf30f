"""Connect to the database of a store, and keep the connections open: pragmas, rights of the file, lost connections."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from typing import Any, Final, NamedTuple

from sqlalchemy import URL, Engine, NullPool, create_engine, event

from erlport_bridge.errors import OperationError
from erlport_bridge.store.address import SQLITE, Address
from erlport_bridge.store.failures import store_error
from erlport_bridge.store.reserve import LOG_PAGES
from erlport_bridge.store.transfer_files import kind_of

#: How long a statement waits for a lock of another process, and a connection for its server.
PATIENCE_S: Final = 5


class Open(NamedTuple):
    """An open connection, in which each statement is a transaction unless it begins one.

    Attributes:
        pooled: SQLAlchemy's, around that of the driver.
        cursor: The only cursor of a connection of PostgreSQL; ``None``: each use opens one.
        round: Of connections of an earlier round some were lost.
    """

    pooled: Any
    cursor: Any
    round: int


class Connections:
    """The connections of a database. Each is taken by one thread at a time, and kept for the next one.

    SQLAlchemy opens them, and knows which are lost. Its pools do more for each use than the store needs, which takes
    half as long as SQLite takes for a turn.

    Attributes:
        driver_error: The base class of the driver's errors.
    """

    def __init__(self, address: Address) -> None:
        is_sqlite = address.database == SQLITE
        self._engine = _sqlite_engine(address) if is_sqlite else _postgresql_engine(address)
        self._is_sqlite = is_sqlite
        # `Any`: the drivers have no class in common.
        self.driver_error: Any = self._engine.dialect.loaded_dbapi.Error
        # The last one first, whose caches know the newest. To append and to pop are atomic.
        self._idle: list[Open] = []
        self._round = 0

    def take(self) -> Open:
        """Return a connection that nobody uses, or a new one."""
        return self.take_idle() or self._open()

    def take_idle(self) -> Open | None:
        """Return an open connection that nobody uses; ``None``: there is none."""
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            if found.round == self._round:
                return found
            self.drop(found)

    def give_back(self, connection: Open) -> None:
        """Keep a connection for the next user, who finds no open transaction."""
        self._idle.append(connection)

    def give_back_failed(self, connection: Open, error: BaseException) -> bool:
        """Roll back a connection whose use has failed, and keep it unless it is lost.

        Returns:
            Whether it is lost; all others that are open are dropped then.
        """
        if self._is_lost(connection, error):
            # The server was restarted since its last use, and the others are as old.
            self._round += 1
            self.drop(connection)
            return True
        try:
            connection.pooled.rollback()
        except self.driver_error:
            self.drop(connection)
        else:
            self.give_back(connection)
        return False

    def drop(self, connection: Open) -> None:
        """Close a connection."""
        with contextlib.suppress(self.driver_error):
            connection.pooled.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while (found := self.take_idle()) is not None:
            self.drop(found)

    def _open(self) -> Open:
        number = self._round
        pooled: Any = self._engine.raw_connection()
        if self._is_sqlite:
            return Open(pooled, None, number)
        # Imported only where psycopg is.
        from erlport_bridge.store.prepared_cursor import PreparedCursor

        return Open(pooled, PreparedCursor(pooled.dbapi_connection), number)

    def _is_lost(self, connection: Open, error: BaseException) -> bool:
        driver = connection.pooled.dbapi_connection
        return isinstance(error, self.driver_error) and self._engine.dialect.is_disconnect(error, driver, None)


def _sqlite_engine(address: Address) -> Engine:
    path = str(address.path)
    _check_is_regular(path, address.shown)
    try:
        _make_private(path)
    except OSError as error:
        raise store_error(error, address.shown) from None
    # Not as text, in which a ? of the name would end it.
    url = URL.create("sqlite", database=path)
    # A connection goes from thread to thread, which use it one after the other.
    arguments = {"timeout": PATIENCE_S, "check_same_thread": False}
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=arguments)

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        _set_wal(connection)
        connection.execute(f"PRAGMA synchronous = {address.synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        # From now on who uses it decides whether to wait.
        connection.execute("PRAGMA busy_timeout = 0")

    event.listen(engine, "connect", configure)
    return engine


def _set_wal(connection: sqlite3.Connection) -> None:
    """Turn on write-ahead logging, with which readers and the writer do not wait for each other.

    SQLite does not wait for a lock here, so this tries again while another process turns it on.
    """
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


def _check_is_regular(path: str, shown: str) -> None:
    """Refuse what is there and no regular file, of which SQLite would say that the disk has failed."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # there is none, or the attempt to open it fails for the same reason
    if not stat.S_ISREG(mode):
        kind = kind_of(mode)
        remedy = "name a file in it" if kind == "directory" else "name a regular file"
        message = f"expected the file of a store at {shown}, got a {kind}; {remedy}"
        raise OperationError("store", message, retryable=False, stage="store")


def _make_private(path: str) -> None:
    """Make the file of a store, and its folder, so that only this user can read them; leave what is there as it is."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) and os.path.isdir(os.path.dirname(folder)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, stat.S_IRWXU)
    # SQLite gives the files beside it the same rights.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, stat.S_IRUSR | stat.S_IWUSR))


def _postgresql_engine(address: Address) -> Engine:
    settings = f"-c statement_timeout={2 * PATIENCE_S * 1000} -c lock_timeout={PATIENCE_S * 1000}"
    arguments: dict[str, Any] = {
        "connect_timeout": PATIENCE_S,
        "options": settings,
        "application_name": "dspex",
        "client_encoding": "utf-8",
    }
    try:
        return create_engine(address.url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=arguments)
    except ImportError:
        message = "a store in PostgreSQL needs psycopg; install erlport_bridge[postgres]"
        raise OperationError("missing_dependency", message) from None
