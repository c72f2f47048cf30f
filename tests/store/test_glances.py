"""Small reads on the event loop, as long as they are quick."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.store import Store, database, store
from erlport_bridge.store.address import POSTGRESQL, SQLITE, read
from erlport_bridge.store.rows import Rows
from tests.store import postgresql


def thread(rows: Rows) -> int:
    rows.one("SELECT version FROM dspex_sessions WHERE id = :id", id="x")
    return threading.get_ident()


def slow(rows: Rows) -> int:
    time.sleep(0.02)
    return thread(rows)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take glances for quick, however busy this machine is."""
    monkeypatch.setattr(store, "_QUICK_S", {SQLITE: 60.0, POSTGRESQL: 60.0})
    monkeypatch.setattr(database, "_GLANCE_MS", 10_000)


@pytest.mark.usefixtures("patient")
def test_glances_are_made_on_the_loop_once_a_thread_has_made_one(url: str) -> None:
    opened = Store(read(url))

    async def glances() -> list[int]:
        return [await opened.glance(thread) for _ in range(3)]

    # The first one opens the store, which takes long, and prepares the statement in PostgreSQL.
    first, *others = asyncio.run(glances())
    assert first != threading.get_ident()
    assert others == [threading.get_ident()] * 2
    opened.close()


def test_slow_glances_are_made_in_a_thread_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Less than the slow one takes, and more than the quick ones do on a busy machine.
    monkeypatch.setattr(store, "_QUICK_S", {SQLITE: 0.009})
    opened = Store(read(f"sqlite:///{tmp_path}/dspex.db"))

    async def glances() -> None:
        await opened.read(thread)
        began = time.monotonic()
        assert await opened.glance(slow) == threading.get_ident()
        assert await opened.glance(thread) != threading.get_ident()
        ends_at = time.monotonic() + 30
        while await opened.glance(thread) != threading.get_ident():
            assert time.monotonic() < ends_at
            await asyncio.sleep(0.05)
        # A hundredth of the loop's time.
        assert time.monotonic() - began > 100 * 0.02

    asyncio.run(glances())
    opened.close()


@pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))
def test_glance_at_a_server_that_is_late_is_made_in_a_thread(postgresql_server: postgresql.Server) -> None:
    """The loop waits a millisecond, and the thread goes on with the same connection."""
    opened = Store(read(postgresql_server.url))

    def sleeping(rows: Rows) -> tuple[int, int]:
        return threading.get_ident(), rows.one("SELECT pg_sleep(0.2), 7 AS seven")[1]

    async def glances() -> None:
        assert (await opened.read(sleeping))[1] == 7
        blocked: list[float] = []

        async def tick() -> None:
            while True:
                at = time.monotonic()
                await asyncio.sleep(0.001)
                blocked.append(time.monotonic() - at)

        ticking = asyncio.ensure_future(tick())
        ident, seven = await opened.glance(sleeping)
        ticking.cancel()
        assert (ident == threading.get_ident(), seven) == (False, 7)
        # The loop went on meanwhile.
        assert len(blocked) > 20
        assert await opened.read(lambda rows: rows.one("SELECT 8 AS eight")) == (8,)

    asyncio.run(glances())
    opened.close()


@pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))
def test_server_that_hangs_stops_neither_the_loop_nor_other_threads(postgresql_server: postgresql.Server) -> None:
    """A result that is not there yet must not be asked for: libpq waits for it with the GIL."""
    opened = Store(read(postgresql_server.url))

    def ask(rows: Rows) -> Any:
        return rows.one("SELECT 9 AS nine")

    async def glances() -> None:
        for _ in range(3):
            assert await opened.glance(ask) == (9,)
        processes = postgresql_server.processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            for work in (opened.glance, opened.read, opened.write, opened.change):
                began, turns = time.monotonic(), 0
                waiting = asyncio.ensure_future(work(ask, 0.3))
                while not waiting.done():
                    await asyncio.sleep(0.005)
                    turns += 1
                with pytest.raises(OperationError) as caught:
                    await waiting
                assert (caught.value.kind, caught.value.facts["stage"]) == ("timeout", "store")
                assert turns > 10
                assert time.monotonic() - began < 10
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        for _ in range(3):
            assert await opened.glance(ask) == (9,)

    asyncio.run(glances())
    opened.close()


@pytest.mark.usefixtures("patient")
@pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))
def test_glance_goes_on_after_a_restart_of_the_server(postgresql_server: postgresql.Server) -> None:
    opened = Store(read(postgresql_server.url))
    ask = "SELECT 9 AS nine"

    async def glances() -> None:
        await opened.glance(lambda rows: rows.one(ask))
        postgresql_server.stop()
        postgresql_server.start()
        for _ in range(3):
            assert await opened.glance(lambda rows: rows.one(ask)) == (9,)

    asyncio.run(glances())
    opened.close()


def test_glance_that_fails_is_an_error_of_the_store(tmp_path: Path) -> None:
    opened = Store(read(f"sqlite:///{tmp_path}/dspex.db"))

    async def glance() -> None:
        await opened.read(thread)
        await opened.glance(lambda rows: rows.one("SELECT version FROM no_such_table"))

    with pytest.raises(OperationError) as caught:
        asyncio.run(glance())
    assert caught.value.kind == "store"
    opened.close()


def test_thread_that_comes_later_does_not_tell_what_was_true_before(tmp_path: Path) -> None:
    opened = Store(read(f"sqlite:///{tmp_path}/dspex.db"))
    begun, goes_on = threading.Event(), threading.Event()

    def slowly(rows: Rows) -> int:
        begun.set()
        assert goes_on.wait(30)
        return thread(rows)

    async def test() -> None:
        await opened.read(thread)
        reading = asyncio.ensure_future(opened.read(slowly))
        await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(OperationError):
            await opened.write(lambda rows: rows.one("SELECT version FROM no_such_table"))
        goes_on.set()
        await reading
        assert opened.describe()["ready"] is False

    asyncio.run(test())
    opened.close()
