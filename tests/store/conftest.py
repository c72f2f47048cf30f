"""Provide stores for tests: an empty SQLite file, and an empty database of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.store import postgresql

# To import it turns the fence of the store off: for the examples in docstrings pytest imports all other modules.
collect_ignore = ["unfenced_worker.py"]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """Yield a running PostgreSQL."""
    if postgresql.MISSING:
        pytest.skip(postgresql.MISSING)
    with postgresql.Server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty store of each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/dspex.db"
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    server.empty()
    return server.url


@pytest.fixture
def ports() -> Iterator[ExitStack]:
    """Yield what closes the ports of a test."""
    with ExitStack() as stack:
        yield stack
