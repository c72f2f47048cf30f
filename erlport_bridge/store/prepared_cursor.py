"""Execute statements in PostgreSQL, each prepared once for a connection.

The cursors of psycopg look up the types of all parameters and results at each execution, and wait for the server in
Python. Both take longer than PostgreSQL takes for a statement of the store, so this cursor calls libpq itself.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from psycopg import OperationalError
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGresult

_NAMED: Final = re.compile(r":(\w+)")
_SUCCESSES: Final = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)

# The OIDs of PostgreSQL's types.
_BIGINT: Final = 20
_DOUBLE: Final = 701
_UNKNOWN: Final = 0
_OIDS: Final = {str: 25, int: _BIGINT, float: _DOUBLE, type(None): _UNKNOWN}
_NOTHING: Final[Mapping[str, Any]] = {}
_READERS: Final[dict[int, Callable[[bytes], Any]]] = {_BIGINT: int, 21: int, 23: int, _DOUBLE: float}


class LateError(OperationalError):
    """The server has not answered within the time that the cursor may wait."""


class PreparedCursor:
    """The cursor of one connection; errors of the server are psycopg's.

    Parameters are ``str``, ``int``, ``float`` or ``None``. Results are ``int``, ``float``, or text for
    all else.

    Args:
        connection: The connection. Nothing else uses it while a statement is executed.

    Attributes:
        rowcount: How many rows the last statement has changed or returned.
        most_ms: How long a statement may take; ``None``: as long as it takes.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self._pg = connection.pgconn
        # Their names, by the statement and the types of its parameters.
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self._is_late = False
        self.rowcount = -1
        self.most_ms: int | None = None

    def execute(self, sql: str, given: Mapping[str, Any] = _NOTHING, /) -> None:
        """Execute a statement, whose parameters are written ``:name``.

        Raises:
            LateError: It has not ended within ``most_ms``, or would not, since it is not prepared. Without ``most_ms``
                the next statement waits for it first.
        """
        if self.most_ms is None:
            if self._is_late:
                self._ended(None)
            result = self._pg.exec_prepared(self._name_of(sql, given), _texts(sql, given))
        else:
            result = self._result_within(self.most_ms, sql, given)
        self._read(result)

    def fetchone(self) -> Any:
        """Return the next row."""
        return next(self._rows, None)

    def fetchall(self) -> Sequence[Any]:
        """Return all further rows."""
        return list(self._rows)

    def close(self) -> None:
        """Forget the rows; the statements stay prepared."""
        self._rows = iter(())

    def _name_of(self, sql: str, given: Mapping[str, Any]) -> bytes:
        """Return the name of a statement, which is prepared now if it is not yet."""
        key = _key(sql, given)
        name = self._prepared.get(key)
        if name is None:
            name = b"dspex_%d" % len(self._prepared)
            self._check(self._pg.prepare(name, _numbered(sql)[0], key[1]))
            self._prepared[key] = name
        return name

    def _result_within(self, most_ms: int, sql: str, given: Mapping[str, Any]) -> PGresult:
        name = self._prepared.get(_key(sql, given))
        if name is None or self._is_late:
            raise LateError
        self._pg.send_query_prepared(name, _texts(sql, given))
        self._is_late = True
        return self._ended(most_ms)

    def _ended(self, most_ms: int | None) -> PGresult:
        """Wait for the end of the statement that was sent, and return its result."""
        result = None
        while True:
            self._wait(most_ms)
            following = self._pg.get_result()
            if following is None:
                break
            result = following
        self._is_late = False
        if result is None:
            raise OperationalError("the connection was lost")
        return result

    def _wait(self, most_ms: int | None) -> None:
        """Wait until there is a result, for which ``get_result`` would wait with the GIL."""
        answered = select.poll()
        answered.register(self._pg.socket, select.POLLIN)
        while self._pg.flush() or self._pg.is_busy():
            if not answered.poll(most_ms):
                raise LateError
            self._pg.consume_input()

    def _read(self, result: PGresult) -> None:
        self._check(result)
        columns = range(result.nfields)
        readers = [_READERS.get(result.ftype(column), bytes.decode) for column in columns]
        self.rowcount = result.ntuples if result.nfields else result.command_tuples or 0
        self._rows = iter(
            [
                tuple(
                    None if (value := result.get_value(row, column)) is None else readers[column](value)
                    for column in columns
                )
                for row in range(result.ntuples)
            ]
        )

    def _check(self, result: PGresult) -> None:
        if result.status in _SUCCESSES:
            return
        if result.error_field(DiagnosticField.SQLSTATE) is None:
            # The client's own error, of a connection that is lost.
            raise OperationalError(result.get_error_message())
        raise error_from_result(result)


def _key(sql: str, given: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    return sql, tuple([_OIDS[type(given[name])] for name in _numbered(sql)[1]])


def _texts(sql: str, given: Mapping[str, Any]) -> list[Any]:
    # `Any`: psycopg's types do not know that `None` is NULL.
    return [None if (value := given[name]) is None else str(value).encode() for name in _numbered(sql)[1]]


@lru_cache(maxsize=256)
def _numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with ``$1`` in place of ``:name``, and the names in the order of their numbers."""
    names = tuple(dict.fromkeys(_NAMED.findall(sql)))
    return _NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", sql).encode(), names
