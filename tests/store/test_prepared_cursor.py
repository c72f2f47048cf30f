"""Statements in PostgreSQL without psycopg's cursors: values, errors, and what is prepared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.store import postgresql

pytestmark = pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))

psycopg = pytest.importorskip("psycopg")

from erlport_bridge.store.prepared_cursor import LateError, PreparedCursor  # noqa: E402 - it imports psycopg


@pytest.fixture
def connection(postgresql_server: postgresql.Server) -> Iterator[Any]:
    with psycopg.connect(postgresql_server.url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def one(cursor: PreparedCursor, sql: str, **given: Any) -> Any:
    cursor.execute(sql, given)
    return cursor.fetchone()


@pytest.mark.parametrize("value", ["", "é 'x'; --", "\\", "7", 0, -(2**63), 2**63 - 1, 1.5, 1e300, None])
def test_values_come_back_as_they_were(connection: Any, value: Any) -> None:
    kind = {str: "text", int: "bigint", float: "double precision"}.get(type(value), "text")
    cursor = PreparedCursor(connection)
    assert one(cursor, f"SELECT CAST(:value AS {kind}), :value", value=value) in [(value, value), (None, None)]


def test_rows_are_read_one_by_one_and_all(connection: Any) -> None:
    cursor = PreparedCursor(connection)
    cursor.execute("SELECT n, n + :more FROM generate_series(1, :most) n", {"most": 3, "more": 10})
    assert cursor.rowcount == 3
    assert cursor.fetchone() == (1, 11)
    assert cursor.fetchall() == [(2, 12), (3, 13)]
    assert cursor.fetchone() is None
    cursor.execute("SELECT 1 WHERE false")
    assert (cursor.fetchone(), cursor.fetchall(), cursor.rowcount) == (None, [], 0)


def test_statement_is_prepared_once_for_the_types_of_its_parameters(connection: Any) -> None:
    cursor = PreparedCursor(connection)
    for value in ("a", "b", None, 7):
        cursor.execute("SELECT :value", {"value": value})
    found = one(cursor, "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1'")
    assert found == (3,)


def test_changes_are_counted_and_errors_have_the_code_of_the_server(connection: Any) -> None:
    cursor = PreparedCursor(connection)
    cursor.execute("CREATE TEMP TABLE t (id BIGINT PRIMARY KEY, body TEXT)")
    insert = "INSERT INTO t (id, body) VALUES (:id, :body)"
    for number in range(3):
        cursor.execute(insert, {"id": number, "body": None})
        assert cursor.rowcount == 1
    cursor.execute("UPDATE t SET body = :body WHERE id > :id", {"body": "x", "id": 0})
    assert cursor.rowcount == 2
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        cursor.execute(insert, {"id": 1, "body": "y"})
    assert caught.value.sqlstate == "23505"
    with pytest.raises(psycopg.errors.UndefinedTable):
        cursor.execute("SELECT 1 FROM no_such_table")
    assert one(cursor, "SELECT count(body) FROM t") == (2,)


def test_transaction_ends_with_all_or_nothing(connection: Any) -> None:
    cursor = PreparedCursor(connection)
    cursor.execute("CREATE TEMP TABLE t (id BIGINT)")
    for end, count in (("ROLLBACK", 0), ("COMMIT", 1)):
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t (id) VALUES (:id)", {"id": 1})
        cursor.execute(end)
        assert one(cursor, "SELECT count(*) FROM t") == (count,)


def test_late_statement_is_waited_for_by_the_next_one(connection: Any) -> None:
    cursor = PreparedCursor(connection)
    sleep = "SELECT pg_sleep(:s), 5 AS five"
    one(cursor, sleep, s=0.0)
    cursor.most_ms = 1
    for _ in range(2):
        with pytest.raises(LateError):
            cursor.execute(sleep, {"s": 0.3})
    with pytest.raises(LateError):  # it is not prepared
        cursor.execute("SELECT 6 AS six")
    cursor.most_ms = None
    assert one(cursor, "SELECT 6 AS six") == (6,)
    cursor.most_ms = 10_000
    assert one(cursor, sleep, s=0.01)[1] == 5


@pytest.mark.parametrize("most_ms", [None, 10_000])
def test_connection_that_is_lost_is_an_operational_error(connection: Any, most_ms: int | None) -> None:
    cursor = PreparedCursor(connection)
    (process,) = one(cursor, "SELECT pg_backend_pid()")
    with psycopg.connect(connection.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [process])
    cursor.most_ms = most_ms
    with pytest.raises(psycopg.OperationalError):
        cursor.execute("SELECT pg_backend_pid()")
    assert connection.broken or connection.closed
