"""Read the address of a store: where its database is, without a look at the database itself.

The address may hold a password. So it comes by the environment, from which it is removed as soon as it is read, and no
error shows more of it than :attr:`Address.shown`.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from erlport_bridge.errors import OperationError
from erlport_bridge.redaction import remember_secret

#: The variable of the environment that holds the address of the port's store.
VARIABLE: Final = "DSPEX_STORE"
#: Holds the name of the place where the user has written the address, for errors.
NAME_VARIABLE: Final = "DSPEX_STORE_NAME"
SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"

_SCHEMES: Final = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgresql+psycopg": POSTGRESQL}
_SYNCHRONOUS: Final = ("FULL", "NORMAL", "OFF")
_NONE: Final = ("", "none", "false")
_EXAMPLES: Final = "sqlite:////srv/app/dspex.db or postgresql+psycopg://user:password@host/database"
_SECRET_PARAMETERS: Final = ("password", "sslpassword")


@dataclass(frozen=True)
class Address:
    """The address of a store.

    Attributes:
        database: ``"sqlite"`` or ``"postgresql"``.
        url: The address as SQLAlchemy takes it, with its password.
        shown: The address without its password and its parameters.
        path: The file of a SQLite database.
        synchronous: When SQLite waits for the disk: ``FULL`` at each commit, so that a power cut loses nothing that was
            committed; ``NORMAL`` at checkpoints only, so that a power cut may lose the last commits; ``OFF`` never.
    """

    database: str
    url: str = field(repr=False)
    shown: str
    path: str | None = None
    synchronous: str = "FULL"


def read(text: str, path: str = VARIABLE) -> Address:
    """Read the address of a store.

    Raises:
        OperationError: Of kind ``input``, without the text, which may hold a password.

    >>> read("postgresql+psycopg://app:secret@db.local/dspex").shown
    'postgresql+psycopg://app@db.local/dspex'
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        raise _wrong("its host or port is malformed", path) from None
    if parts.fragment or text.endswith("#"):
        raise _wrong("it has a #, which ends an address; write %23", path)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    for secret in (parts.password, *(parameters.get(name) for name in _SECRET_PARAMETERS)):
        if secret:
            remember_secret(secret)
            remember_secret(unquote(secret))
    database = _SCHEMES.get(parts.scheme)
    if database is None:
        raise _wrong("its scheme is another one", path)
    if database == SQLITE:
        return _sqlite(parts.netloc, parts.path, parameters, path)
    if parts.path in ("", "/"):
        raise _wrong("it names no database", path)
    user = f"{parts.username}@" if parts.username else ""
    return Address(
        POSTGRESQL,
        text.replace(parts.scheme, "postgresql+psycopg", 1),
        f"postgresql+psycopg://{user}{host}{port}{parts.path}",
    )


def from_environment(environment: MutableMapping[str, str] = os.environ) -> Address | None:
    """Take the address of the port's store out of the environment, where child processes would see it.

    Returns:
        The address; ``None``: the port has no store.

    Raises:
        OperationError: As :func:`read`.
    """
    text = environment.get(VARIABLE, "")
    address = None if text.lower() in _NONE else read(text, environment.get(NAME_VARIABLE, VARIABLE))
    for name in (VARIABLE, NAME_VARIABLE):
        environment.pop(name, None)
    return address


def has_password(text: str) -> bool:
    """Return whether an address may hold a password, so that no list of processes may show it."""
    parts = urlsplit(text)
    return ("@" in parts.netloc and ":" in parts.netloc.rpartition("@")[0]) or "password" in parts.query


def _sqlite(host: str, file: str, parameters: dict[str, str], path: str) -> Address:
    if file.startswith("/:memory:"):
        raise _wrong("expected a file; a database in memory would be of one process alone", path)
    if host or len(file) < 2:
        raise _wrong("it names no file", path)
    synchronous = parameters.pop("synchronous", "FULL").upper()
    if parameters:
        raise _wrong(f"it has the unknown parameter {next(iter(parameters))!r}; known is synchronous", path)
    if synchronous not in _SYNCHRONOUS:
        raise _wrong(f"expected {', '.join(_SYNCHRONOUS)} as its synchronous, got {synchronous!r}", path)
    name = os.path.abspath(unquote(file[1:]))
    return Address(SQLITE, f"sqlite:///{name}", f"sqlite:///{name}", name, synchronous)


def _wrong(problem: str, path: str) -> OperationError:
    return OperationError(
        "input", f"expected the address of a store at {path}, such as {_EXAMPLES}: {problem}", path=path
    )
