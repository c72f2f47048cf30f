"""Turn the exceptions of databases into errors of kind ``store``, by their codes: what happened, and what helps."""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from erlport_bridge.errors import OperationError, message_of


class _Cause(NamedTuple):
    """What a code of a database means; ``{shown}`` stands for the address."""

    message: str
    retryable: bool


_LOCKED: Final = _Cause("the store at {shown} is locked by another process; it was waited for", True)
_FULL: Final = _Cause("the disk of the store at {shown} is full; nothing of this call is stored", True)
_CORRUPT: Final = _Cause(
    "the file of the store at {shown} is no intact database; put a backup in its place, or move it away", False
)
_READ_ONLY: Final = _Cause("the store at {shown} cannot be written; check the owner of its file and folder", False)
_GONE: Final = _Cause(
    "the store at {shown} cannot be reached; check that its server runs, and the host, port, user, password and "
    "database of the address",
    True,
)
_REFUSED: Final = _Cause("the user of the store at {shown} may not do this", False)
_BROKEN: Final = _Cause("the disk of the store at {shown} has failed", True)

# The primary result codes of SQLite.
_SQLITE: Final = {
    5: _LOCKED,
    6: _LOCKED,
    8: _READ_ONLY,
    10: _BROKEN,
    11: _CORRUPT,
    13: _FULL,
    14: _Cause(
        "the file of the store at {shown} cannot be opened; check its rights and its folder, "
        "of which only the last part is made",
        False,
    ),
    26: _CORRUPT,
}
# The beginnings of PostgreSQL's SQLSTATE, the longest first.
_POSTGRESQL: Final = {
    "53100": _FULL,
    "55P03": _LOCKED,
    "57014": _Cause("the store at {shown} did not answer in time", True),
    "08": _GONE,
    "42501": _REFUSED,
    "25006": _READ_ONLY,
    "40": _Cause("the store at {shown} has two writers that waited for each other", True),
    "53": _Cause("the store at {shown} has no room for another connection, or no memory", True),
    "57P": _GONE,
    "XX001": _CORRUPT,
    "XX002": _CORRUPT,
}


def store_error(error: Exception, shown: str) -> OperationError:
    """Return the error of a call whose database work failed."""
    found = getattr(error, "orig", None) or error
    cause = _cause_of(found) or (_GONE if _is_operational(error) else None)
    said = message_of(found).partition("\n")[0]
    if cause is None:
        return OperationError("store", f"the store at {shown} has failed: {said}", retryable=False, stage="store")
    message = f"{cause.message.format(shown=shown)} ({said})"
    return OperationError("store", message, retryable=cause.retryable, stage="store")


def is_full(error: BaseException) -> bool:
    """Return whether an error of SQLite says that the disk is full."""
    return _cause_of(error) is _FULL


def is_locked(error: BaseException) -> bool:
    """Return whether an error of SQLite says that another process holds a lock."""
    return _cause_of(error) is _LOCKED


def removed_error(shown: str) -> OperationError:
    """Return the error of a call whose store has lost its file while it was open."""
    message = (
        f"the file of the store at {shown} was removed or replaced while it was open, and what is written to it is "
        "lost; restart the pool, after putting a backup in its place if there is one"
    )
    return OperationError("store", message, retryable=False, stage="store")


def _is_operational(error: BaseException) -> bool:
    return type(error).__name__ == "OperationalError"


def _cause_of(error: BaseException) -> _Cause | None:
    if isinstance(error, OSError):
        return _FULL if error.errno == 28 else _SQLITE[14]
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):  # Python 3.11 and newer
        return _SQLITE.get(code & 0xFF)
    if isinstance(error, sqlite3.DatabaseError):
        return _by_text(str(error), error)
    state = getattr(error, "sqlstate", None) or ""
    return next((cause for begin, cause in _POSTGRESQL.items() if state.startswith(begin)), None)


def _by_text(said: str, error: sqlite3.DatabaseError) -> _Cause | None:
    """Return the cause by SQLite's own sentences, which Python 3.10 gives in place of a code."""
    for sentence, code in (("locked", 5), ("full", 13), ("malformed", 11), ("not a database", 26), ("readonly", 8)):
        if sentence in said:
            return _SQLITE[code]
    return _SQLITE[14] if isinstance(error, sqlite3.OperationalError) and "unable to open" in said else None
