"""Write a whole store as lines of JSON, and read such lines into a store: for backups, and to move to another database.

The first line names the format, each further one is a row of a table, and the last one has their number, so that a file
that was cut off is noticed. What is written is the store at one moment. What is read is checked line by line, and is in
the store as a whole or not at all. What is kept of compilations that run is not written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from erlport_bridge.errors import OperationError, json_fault, refuse_constant
from erlport_bridge.store import transfer_files
from erlport_bridge.store.names import key_of, name_of

if TYPE_CHECKING:
    from erlport_bridge.store.database import Database
    from erlport_bridge.store.rows import Rows

_FORMAT: Final = "dspex.store"
_NO_EXPORT: Final = f'expected a file that export_store has written, with "format": "{_FORMAT}"'
_VERSION: Final = 1
# Of a program with its versions the limit is 16 MiB, and JSON may be six times as long as the text.
_MAX_LINE: Final = 128 * 1024 * 1024
_PAGE: Final = 200


class _Column(NamedTuple):
    """A column: the type of its values, and whether it may have none; the text of an id, or of JSON, has a form."""

    name: str
    kind: type
    optional: bool = False
    is_id: bool = False
    is_json: bool = False


class _Table(NamedTuple):
    """A table: its name in the file, how many of its columns, the first ones, are its key, and its columns."""

    name: str
    key: int
    columns: tuple[_Column, ...]

    @property
    def sql(self) -> str:
        """The name in the database."""
        return f"dspex_{self.name}s"


def _id(name: str, *, optional: bool = False) -> _Column:
    return _Column(name, str, optional, is_id=True)


def _json(name: str, kind: type = dict, *, optional: bool = False) -> _Column:
    return _Column(name, kind, optional, is_json=True)


def _int(name: str) -> _Column:
    return _Column(name, int)


def _text(name: str) -> _Column:
    return _Column(name, str, optional=True)


_MODEL: Final = _json("model", object, optional=True)
_BUDGET: Final = _json("budget", optional=True)
_TIMES: Final = (_int("created_ms"), _int("used_ms"))
_TABLES: Final = (
    _Table("session", 1, (_id("id"), _int("version"), _MODEL, _text("model_name"), _BUDGET, *_TIMES)),
    _Table("program", 1, (_id("id"), _id("session_id"), _int("version"), _int("created_ms"))),
    _Table("version", 2, (_id("program_id"), _int("number"), _json("body"), _json("description"))),
    _Table(
        "conversation",
        2,
        (_id("program_id"), _id("id"), _id("session_id", optional=True), _int("version"), *_TIMES),
    ),
    _Table(
        "turn",
        3,
        (
            _id("program_id"),
            _id("conversation_id"),
            _int("number"),
            _text("request_key"),
            _json("body"),
            _json("answer", optional=True),
        ),
    ),
)
_BY_NAME: Final = {table.name: table for table in _TABLES}
# Rows that a worker owns belong to none when they are read.
_WITH_OWNER: Final = ("session", "program", "conversation")


def export_file(database: Database, path: str, stop: threading.Event) -> dict[str, int]:
    """Write a store to a new file, private to this user, which is there whole or not at all; return the rows by table.

    Raises:
        OperationError: Of kind ``input``: the file is there already, or cannot be written. Of kind ``store``.
    """
    with transfer_files.new(path) as file:
        return export_lines(database, file, stop)


def import_file(database: Database, path: str, stop: threading.Event) -> dict[str, int]:
    """Read a file of :func:`export_file` into a store; return the rows by table.

    Raises:
        OperationError: Of kind ``input``: the file cannot be read, or a line is wrong, or is in the store already; its
            number is in the message. Of kind ``store``. Nothing is stored.
    """
    with transfer_files.existing(path) as file:
        return import_lines(database, file, stop)


def export_lines(database: Database, file: IO[bytes], stop: threading.Event) -> dict[str, int]:
    """Write the lines of a store, as it is at one moment; return the rows by table."""
    counts: dict[str, int] = {}

    def write(rows: Rows) -> None:
        _rewind(file)
        _write(file, {"format": _FORMAT, "format_version": _VERSION})
        for table in _TABLES:
            counts[table.name] = 0
            for row in _rows_of(rows, table):
                if stop.is_set():
                    raise OperationError("cancelled", "the export was cancelled")
                _write(file, {table.name: row})
                counts[table.name] += 1
        _write(file, {"end": counts})

    database.snapshot(write)
    return counts


def import_lines(database: Database, file: IO[bytes], stop: threading.Event) -> dict[str, int]:
    """Read lines into a store, in one transaction; errors as :func:`import_file`."""

    def read(rows: Rows) -> dict[str, int]:
        _rewind(file)
        return _import(rows, _lines(file), stop)

    return database.write(read)


def _rewind(file: IO[bytes]) -> None:
    """Begin anew: the work is repeated if the server was restarted since the connection's last use."""
    if file.seekable():
        file.seek(0)
        if file.writable():
            file.truncate()


def _write(file: IO[bytes], line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n")


def _rows_of(rows: Rows, table: _Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in the order of its key, some at a time."""
    names, key = [column.name for column in table.columns], [column.name for column in table.columns[: table.key]]
    last: dict[str, Any] = {}
    while True:
        after = f"WHERE ({', '.join(key)}) > ({', '.join(f':{name}' for name in key)})" if last else ""
        page = rows.all(
            f"SELECT {', '.join(names)} FROM {table.sql} {after} ORDER BY {', '.join(key)} LIMIT {_PAGE}", **last
        )
        for row in page:
            yield {column.name: _shown(column, value) for column, value in zip(table.columns, row, strict=True)}
        if len(page) < _PAGE:
            return
        last = dict(zip(key, page[-1], strict=False))


def _shown(column: _Column, value: Any) -> Any:
    if value is None:
        return None
    if column.is_json:
        return json.loads(value)
    return name_of(value) if column.is_id else value


def _lines(file: IO[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each line that is not empty as an object, with its number."""
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        # As an editor, or a join of parts, may leave one. That no row is missing is seen at the end.
        if not line.strip():
            continue
        if len(line) == _MAX_LINE:
            _refuse(number, f"expected at most {_MAX_LINE} bytes")
        try:
            # An editor may have put a byte order mark before the first line.
            found = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"), parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            _refuse(number, _NO_EXPORT if number == 1 else _no_line(line, error))
        if not isinstance(found, dict):
            _refuse(number, _NO_EXPORT if number == 1 else "expected an object")
        yield number, found


def _no_line(line: bytes, error: ValueError | RecursionError) -> str:
    """Return what is wrong with a line that cannot be read."""
    is_cut = isinstance(error, json.JSONDecodeError) and not line.endswith(b"\n")
    return "the file has been cut off in this line" if is_cut else f"expected JSON: {json_fault(error)}"


def _import(rows: Rows, lines: Iterator[tuple[int, dict[str, Any]]], stop: threading.Event) -> dict[str, int]:
    _read_header(lines)
    counts = {table.name: 0 for table in _TABLES}
    last, known = 1, _Known(rows)
    described: set[str] = set()
    for number, line in lines:
        last = number
        if stop.is_set():
            raise OperationError("cancelled", "the import was cancelled; nothing is stored")
        if "end" in line:
            if line["end"] != counts:
                _refuse(number, f"expected the number of rows {counts}, got {line['end']}; rows are missing")
            if next(lines, None) is not None:
                _refuse(number + 1, "expected nothing after the end")
            if missing := known.programs - described:
                _refuse(number, f"program {name_of(min(missing))!r} has no version")
            return counts
        table, row = _read_row(number, line)
        if problem := known.problem_of(table, row):
            _refuse(number, problem)
        if not _insert(rows, table, row):
            # First, because a session that is closed for a file without an end is lost.
            _read_to_end(number, lines)
            there = f"{table.name} {_named(table, row)} is in the store, or in the file, already"
            _refuse(number, f"{there}; import into a new store, or close its session before")
        known.add(table, row)
        if table.name == "version":
            described.add(row["program_id"])
        counts[table.name] += 1
    return _refuse_cut_off(last)


def _read_to_end(last: int, lines: Iterator[tuple[int, dict[str, Any]]]) -> None:
    """Raise if the file has been cut off."""
    ended = False
    for number, line in lines:
        last, ended = number, "end" in line
    if not ended:
        _refuse_cut_off(last)


def _refuse_cut_off(last: int) -> NoReturn:
    _refuse(last, "expected further lines after this one: the file has been cut off")


def _read_header(lines: Iterator[tuple[int, dict[str, Any]]]) -> None:
    header: dict[str, Any] = next(lines, (1, {}))[1]
    if header.get("format") != _FORMAT:
        _refuse(1, _NO_EXPORT)
    version = header.get("format_version")
    if version != _VERSION:
        newer = ", of a newer erlport_bridge" if type(version) is int and version > _VERSION else ""
        _refuse(1, f"the file has format_version {version!r}{newer}; this version reads {_VERSION}")


def _read_row(number: int, line: dict[str, Any]) -> tuple[_Table, dict[str, Any]]:
    """Return the table of a line, and its row as the database takes it."""
    name, row = next(iter(line.items()), ("", None))
    table = _BY_NAME.get(name)
    if len(line) != 1 or table is None or not isinstance(row, dict):
        _refuse(number, f"expected an object with one of {', '.join(_BY_NAME)} or end")
    if unknown := row.keys() - {column.name for column in table.columns}:
        _refuse(number, f"unknown column {_short(min(unknown))} of a {name}")
    return table, {column.name: _read_value(number, table, column, row) for column in table.columns}


def _read_value(number: int, table: _Table, column: _Column, row: dict[str, Any]) -> Any:
    value: Any = row.get(column.name)
    if value is None and column.optional:
        return None
    if column.is_json and value is not None and isinstance(value, column.kind):
        try:
            return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        except ValueError:  # 1e999 is read as an infinity
            _refuse(number, f"expected numbers that a float can hold at {table.name}.{column.name}")
    is_right = isinstance(value, column.kind) and not isinstance(value, bool) and value != ""
    if not is_right or (isinstance(value, int) and not 0 <= value < 2**63):
        expected = {int: "a number that is not negative", str: "a text"}.get(column.kind, "an object")
        _refuse(number, f"expected {expected} at {table.name}.{column.name}, got {_short(value)}")
    if column.kind is int:
        return value
    text = key_of(value) if column.is_id else value
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(number, f"expected text that is UTF-8 at {table.name}.{column.name}")
    if "\0" in text:
        _refuse(number, f"expected text without a zero byte at {table.name}.{column.name}")
    return text


class _Known:
    """The sessions, programs and conversations to which rows may belong, as keys: of the file, or of the store."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._sessions: set[str] = set()
        self.programs: set[str] = set()
        # With their versions.
        self._conversations: dict[tuple[str, str], int] = {}

    def add(self, table: _Table, row: dict[str, Any]) -> None:
        if table.name == "session":
            self._sessions.add(row["id"])
        elif table.name == "program":
            self.programs.add(row["id"])
        elif table.name == "conversation":
            self._conversations[row["program_id"], row["id"]] = row["version"]

    def problem_of(self, table: _Table, row: dict[str, Any]) -> str | None:
        """Return what is missing, to which a row belongs."""
        if table.name == "program" and not self._has_session(row["session_id"]):
            return f"expected session {name_of(row['session_id'])!r} before its program"
        if table.name == "version" and row["program_id"] not in self.programs:
            return f"expected program {name_of(row['program_id'])!r} before its version"
        if table.name != "turn":
            return None
        version = self._conversations.get((row["program_id"], row["conversation_id"]))
        if version is None:
            return f"expected conversation {name_of(row['conversation_id'])!r} before its turn"
        if row["number"] > version:
            return f"expected at most {version}, the version of the conversation, at turn.number, got {row['number']}"
        return None

    def _has_session(self, session: str) -> bool:
        if session in self._sessions:
            return True
        return bool(self._rows.all("SELECT 1 FROM dspex_sessions WHERE id = :id", id=session))


def _insert(rows: Rows, table: _Table, row: dict[str, Any]) -> bool:
    given = dict(row)
    if table.name in _WITH_OWNER:
        given["owner"] = ""
    if table.name == "turn":
        given["bytes"] = len(row["body"])
    names = list(given)
    added = rows.run(
        f"INSERT INTO {table.sql} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)}) "
        "ON CONFLICT DO NOTHING",
        **given,
    )
    return bool(added.rowcount)


def _named(table: _Table, row: dict[str, Any]) -> str:
    key = table.columns[: table.key]
    return ", ".join(repr(name_of(row[one.name]) if one.is_id else row[one.name]) for one in key)


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _refuse(number: int, problem: str) -> NoReturn:
    raise OperationError("input", f"line {number}: {problem}; nothing is stored", path=f"line {number}")
