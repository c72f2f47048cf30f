"""A store that is broken, newer, locked, full or not there: errors of kind ``store``, and nothing half-written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs.sessions import Sessions, StoredSessions
from erlport_bridge.redaction import redact
from erlport_bridge.request import ends_at
from erlport_bridge.store import Store, VersionRow, from_environment, schema
from erlport_bridge.store.address import read
from tests.store import postgresql
from tests.store.worker import Worker

SPEC = {"signature": "question -> answer", "history": True}


def failure(url: str) -> OperationError:
    """Return the error of a program that cannot be stored."""
    worker = Worker(url)
    try:
        with pytest.raises(OperationError) as caught:
            asyncio.run(worker.create(SPEC))
        assert worker.sessions.all() == []
        assert worker.store.describe()["ready"] is False
    finally:
        worker.store.close()
    return caught.value


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_database_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dspex.db"
    path.write_bytes(content)
    error = failure(f"sqlite:///{path}")
    assert (error.kind, error.retryable) == ("store", False)
    assert "no intact database" in error.message
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["a%3Fb%23c.db", "%C3%A9 %2525.db"])
def test_name_of_a_file_may_have_any_character(tmp_path: Path, name: str) -> None:
    """SQLAlchemy took what follows a ? for parameters, and read %25 twice, so that another file was written."""
    url = f"sqlite:///{tmp_path}/{name}"
    worker = Worker(url)
    program = asyncio.run(worker.create(SPEC, "mine"))
    asyncio.run(worker.tell(program.id, "user", "one"))
    worker.store.close()
    assert all(path.name.startswith(unquote(name)) for path in tmp_path.iterdir())
    again = Worker(url)
    assert asyncio.run(again.questions(program.id, "user")) == ["one"]
    again.store.close()


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = failure(f"sqlite:///{tmp_path}/a/b/dspex.db")
    assert (error.kind, error.retryable) == ("store", False)
    assert "cannot be opened; check its rights and its folder, of which only the last part is made" in error.message


@pytest.mark.parametrize("kind", ["directory", "named pipe", "device"])
def test_what_is_no_regular_file_is_named(tmp_path: Path, kind: str) -> None:
    """Of a named pipe and a device the disk had failed, and the call could be tried again."""
    path = "/dev/null" if kind == "device" else f"{tmp_path}/there"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    error = failure(f"sqlite:///{path}")
    assert (error.kind, error.retryable) == ("store", False)
    remedy = "name a file in it" if kind == "directory" else "name a regular file"
    assert error.message == f"expected the file of a store at sqlite:///{path}, got a {kind}; {remedy}"


def test_newer_schema_is_refused(url: str) -> None:
    worker = Worker(url)
    asyncio.run(worker.create(SPEC, "mine"))
    newer = "INSERT INTO dspex_schema (version) VALUES (:version)"
    asyncio.run(worker.store.write(lambda rows: rows.run(newer, version=schema.VERSION + 1)))
    worker.store.close()
    error = failure(url)
    assert (error.kind, error.retryable) == ("store", False)
    assert f"has schema {schema.VERSION + 1}, of a newer erlport_bridge" in error.message


def test_workers_that_begin_at_the_same_time_make_the_tables_once(url: str) -> None:
    async def test() -> None:
        workers = [Worker(url) for _ in range(6)]
        await asyncio.gather(*(worker.create(SPEC, f"s-{number}") for number, worker in enumerate(workers)))
        assert len(await workers[0].stored.all()) == 6
        for worker in workers:
            worker.store.close()

    asyncio.run(test())


def test_call_ends_at_its_deadline_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/dspex.db"
    worker = Worker(url)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        await worker.create(SPEC, "mine")
        with closing(sqlite3.connect(tmp_path / "dspex.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ends_at.set(loop.time() + 0.3)
            with pytest.raises(OperationError) as caught:
                await worker.create(SPEC, "mine")
            assert (caught.value.kind, caught.value.facts["stage"]) == ("timeout", "store")
            # Reading goes on.
            ends_at.set(loop.time() + 30)
            assert len(await worker.stored.all()) == 1
            other.execute("ROLLBACK")

    asyncio.run(test())
    worker.store.close()


def test_write_waits_for_the_lock_of_another_process_and_reads_do_not(tmp_path: Path) -> None:
    worker = Worker(f"sqlite:///{tmp_path}/dspex.db")

    async def test() -> None:
        program = await worker.create(SPEC, "mine")
        with closing(sqlite3.connect(tmp_path / "dspex.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            told = asyncio.ensure_future(worker.tell(program.id, "user", "one"))
            await asyncio.sleep(0.3)
            assert await worker.store.glance(lambda rows: rows.one("SELECT count(*) FROM dspex_turns")) == (0,)
            assert not told.done()
            other.execute("COMMIT")
            await told
        assert await worker.questions(program.id, "user") == ["one"]

    asyncio.run(test())
    worker.store.close()


@pytest.fixture(params=[1])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a folder on a disk of 1 MiB, or of as many as the test says."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={request.param}m", "tmpfs", folder], check=False
    )
    if mounted.returncode:
        pytest.skip("this system lets root mount no small disk")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "-l", folder], check=False)


def test_full_disk_is_an_error_and_what_was_answered_stays(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk}/dspex.db"
    worker = Worker(url)

    async def test() -> None:
        program = await worker.create(SPEC, "mine")
        told = 0
        with pytest.raises(OperationError) as caught:  # noqa: PT012 - which of them fails is not known before
            for _ in range(200):
                await worker.tell(program.id, "user", "x" * 20_000)
                told += 1
        assert (caught.value.kind, "full" in caught.value.message) == ("store", True), caught.value
        (small_disk / "dspex.db-wal").stat()
        reader = Worker(url)
        assert len(await reader.questions(program.id, "user")) == told
        assert len(await worker.questions(program.id, "user")) == told
        reader.store.close()

    asyncio.run(test())
    worker.store.close()


@pytest.mark.parametrize("small_disk", [24], indirect=True)
@pytest.mark.parametrize("size", [500, 20_000])
def test_full_disk_refuses_no_deletion_and_goes_on_with_the_room(small_disk: Path, size: int) -> None:
    """What frees room was refused as well, so that a full disk stayed full."""
    url = f"sqlite:///{small_disk}/dspex.db?synchronous=OFF"
    worker = Worker(url)
    told: list[str] = []
    others = small_disk / "others"

    async def fill(program_id: str) -> None:
        for number in range(len(told), 20_000):
            await worker.tell(program_id, f"user-{number}", "x" * size)
            told.append(f"user-{number}")

    async def test() -> None:
        program = await worker.create(SPEC, "mine")
        old = await worker.create(SPEC, "old")
        other = await worker.create(SPEC, "old")
        await worker.tell(old.id, "user", "y")
        for number in range(3):
            await worker.tell(program.id, f"kept-{number}", "x" * size)
        others.write_bytes(bytes(17 * 2**20))
        for _ in range(2):
            with pytest.raises(OperationError, match="is full"):
                await fill(program.id)
            for conversation in [told.pop() for _ in range(40)]:
                await worker.stored.conversations.delete(program, conversation)
            with pytest.raises(OperationError, match="is full"):
                await fill(program.id)
        await worker.stored.conversations.cut(program, "kept-0", 0)
        await worker.stored.delete_program(None, other.id)
        await worker.stored.close("old")
        # As others see it.
        reader = Worker(url)
        there = {one["id"] for one in await reader.stored.conversations.of(program) if one["turn_count"]}
        assert there == {*told, "kept-1", "kept-2"}
        assert [one["id"] for one in await reader.stored.all()] == ["mine"]
        reader.store.close()
        # The disk has room again, and what was kept is kept anew.
        others.unlink()
        await worker.tell(program.id, "user", "x" * size)

    asyncio.run(test())
    worker.store.close()


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_turn_of_a_store_whose_file_was_removed_is_refused(tmp_path: Path, suffix: str, *, is_replaced: bool) -> None:
    """Turns were acknowledged, and ``ping`` said ``ready``; they were lost at the next start."""
    url = f"sqlite:///{tmp_path}/dspex.db"
    worker = Worker(url)
    file = tmp_path / f"dspex.db{suffix}"

    async def test() -> None:
        program = await worker.create(SPEC, "mine")
        await worker.tell(program.id, "user", "one")
        assert worker.store.describe()["ready"] is True
        file.rename(tmp_path / "moved")
        if is_replaced:
            file.write_bytes((tmp_path / "moved").read_bytes())
        with pytest.raises(OperationError) as caught:
            await worker.tell(program.id, "user", "two")
        assert (caught.value.kind, caught.value.retryable) == ("store", False)
        assert "was removed or replaced" in caught.value.message
        state = worker.store.describe()
        assert (state["ready"], state["error"]) == (False, caught.value.message)

    asyncio.run(test())
    worker.store.close()


def test_ping_notices_a_removed_file_without_a_call(tmp_path: Path) -> None:
    worker = Worker(f"sqlite:///{tmp_path}/dspex.db")
    asyncio.run(worker.create(SPEC, "mine"))
    (tmp_path / "dspex.db").unlink()
    ends_at = time.monotonic() + 20
    while worker.store.describe()["ready"]:
        assert time.monotonic() < ends_at
        time.sleep(0.1)
    worker.store.close()


@pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))
def test_database_that_cannot_be_opened_is_named_with_the_words_of_the_server(
    postgresql_server: postgresql.Server,
) -> None:
    error = failure(postgresql_server.url.replace("/dspex?", "/nowhere?"))
    # The driver gives no code for that, and another server may have it in a moment.
    assert (error.kind, error.retryable) == ("store", True)
    assert "cannot be reached; check that its server runs, and the host, port, user, password and" in error.message
    assert "does not exist" in error.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mysql://host/db", "its scheme is another one"),
        ("sqlite://", "it names no file"),
        ("sqlite:///", "it names no file"),
        ("sqlite:////srv/a#b.db", "it has a #, which ends an address; write %23"),
        ("sqlite:///:memory:", "expected a file; a database in memory would be of one process alone"),
        ("sqlite://host/file", "it names no file"),
        ("sqlite:////a.db?sync=OFF", "unknown parameter 'sync'"),
        ("sqlite:////a.db?synchronous=MAYBE", "expected FULL, NORMAL, OFF"),
        ("postgresql://app:hunter2pass@host", "it names no database"),
        ("postgresql://app:hunter2pass@host:port/db", "its host or port is malformed"),
        ("hunter2pass", "its scheme is another one"),
    ],
)
def test_wrong_address_is_an_error_without_its_text(text: str, problem: str) -> None:
    environment = {"DSPEX_STORE": text}
    with pytest.raises(OperationError) as caught:
        from_environment(environment)
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", "DSPEX_STORE")
    assert problem in caught.value.message
    assert "hunter2pass" not in caught.value.message


def test_address_is_taken_out_of_the_environment_and_its_password_is_a_secret() -> None:
    environment = {"DSPEX_STORE": "postgresql://app:p%40ss-of-the-store@db:6432/dspex"}
    address = from_environment(environment)
    assert environment == {}
    assert address is not None
    assert address.shown == "postgresql+psycopg://app@db:6432/dspex"
    assert "ss-of-the-store" not in repr(address) + redact("failed for p@ss-of-the-store and p%40ss-of-the-store")
    assert from_environment({}) is from_environment({"DSPEX_STORE": "false"}) is None


def test_work_that_fails_leaves_nothing(url: str) -> None:
    store = Store(read(url))
    row = VersionRow(1, "{}", "{}")

    async def test() -> None:
        with pytest.raises(OperationError) as caught:
            # The second version has the number of the first.
            await store.write(lambda rows: rows.add_program("p", "s", "me", [row, row]))
        assert caught.value.kind == "store"
        assert await store.read(lambda rows: rows.sessions()) == []

    asyncio.run(test())
    store.close()


def test_time_to_live_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_SESSION_TTL_MS", "999")
    message = 'expected at least 1000 in the environment at DSPEX_SESSION_TTL_MS, got "999"'
    with pytest.raises(OperationError, match=message):
        StoredSessions.from_environment(Sessions(), read_neighbours=nearest.read)
