"""Small reads of a file on the event loop, as long as they are quick."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.store import Store, store
from erlport_bridge.store.address import read
from erlport_bridge.store.rows import Rows


def thread(rows: Rows) -> int:
    rows.one("SELECT version FROM dspex_sessions WHERE id = :id", id="x")
    return threading.get_ident()


def slow(rows: Rows) -> int:
    time.sleep(0.02)
    return thread(rows)


def test_only_a_file_is_read_on_the_loop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # However busy this machine is.
    monkeypatch.setattr(store, "_QUICK_S", 60.0)
    opened = Store(read(url))

    async def glances() -> list[int]:
        return [await opened.glance(thread) for _ in range(3)]

    # The first one opens the store, which takes long.
    first, *others = asyncio.run(glances())
    assert first != threading.get_ident()
    assert all((other == threading.get_ident()) == url.startswith("sqlite") for other in others)
    opened.close()


def test_slow_glances_are_made_in_a_thread_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUSY_S", 0.5)
    # Less than the slow one takes, and more than the quick ones do on a busy machine.
    monkeypatch.setattr(store, "_QUICK_S", 0.009)
    opened = Store(read(f"sqlite:///{tmp_path}/dspex.db"))

    async def glances() -> None:
        await opened.read(thread)
        assert await opened.glance(slow) == threading.get_ident()
        assert await opened.glance(thread) != threading.get_ident()
        ends_at = time.monotonic() + 30
        while await opened.glance(thread) != threading.get_ident():
            assert time.monotonic() < ends_at
            await asyncio.sleep(0.05)

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
