"""Export and import of a whole store: nothing lost between databases, and nothing half-imported."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import language_model
from erlport_bridge.programs.pipelines.learned import LearnedPredictor
from erlport_bridge.store import transfer
from erlport_bridge.term import Atom
from tests.store import postgresql
from tests.store.worker import Worker

CHAT = {"signature": "question, thing: any -> answer", "history": True}
NAMES = ["user", "ü", "zero\0byte", "back\\0slash"]
Line = dict[str, Any]


async def filled(url: str) -> Worker:
    """Return a worker whose store has some of everything."""
    worker = Worker(url)
    await worker.stored.configure(language_model("openai", {"model": "gpt", "api_key": "sk-not-to-be-stored"}), "mine")
    program = await worker.create(CHAT, "mine")
    for name in NAMES:
        for number in range(3):
            _, told = await worker.begin(program.id, name)
            turn = {"question": f"{name} {number}", "thing": {"a": (1, 2.5, Atom("x"))}, "answer": "-"}
            await worker.end(program, told, turn, key=f"{NAMES.index(name)} {number}")
    await worker.stored.add_version(program, {"modules[0]": LearnedPredictor("Be brief.", ())}, {"optimizer": "X"})
    for number in range(7):
        await worker.create("question -> answer", f"s-{number}")
    return worker


async def seen(worker: Worker) -> list[Any]:
    """Return what a worker finds in its store."""
    found: list[Any] = []
    for session in await worker.stored.all():
        found.append({**session, "idle_ms": 0})
        for described in await worker.stored.programs(session["id"]):
            program = await worker.find(described["id"])
            found.append({**described, "calls": 0})
            if not program.keeps_history:
                continue
            for told in sorted(await worker.stored.conversations.of(program), key=lambda one: str(one["id"])):
                await worker.find(program.id, told["id"])
                conversation = await worker.stored.conversations.find(program, told["id"])
                found.append(({**told, "idle_ms": 0, "bytes": 0}, conversation.turns()))
    return found


async def exported(worker: Worker, path: Path) -> dict[str, int]:
    return await worker.store.transfer(lambda database, stop: transfer.export_file(database, str(path), stop))


async def imported(worker: Worker, path: Path) -> dict[str, int]:
    return await worker.store.transfer(lambda database, stop: transfer.import_file(database, str(path), stop))


@pytest.mark.skipif(postgresql.MISSING is not None, reason=str(postgresql.MISSING))
def test_store_moves_from_sqlite_to_postgresql_and_back(
    tmp_path: Path, postgresql_server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PAGE", 3)
    postgresql_server.empty()
    off = "synchronous=OFF"
    urls = [f"sqlite:///{tmp_path}/first.db?{off}", postgresql_server.url, f"sqlite:///{tmp_path}/last.db?{off}"]

    async def test() -> None:
        (await filled(urls[0])).store.close()
        worker = Worker(urls[0])
        before = await seen(worker)
        for number, url in enumerate(urls[1:]):
            path = tmp_path / f"{number}.jsonl"
            counts = await exported(worker, path)
            assert counts == {"session": 8, "program": 8, "version": 9, "conversation": 4, "turn": 12}
            worker.store.close()
            assert path.stat().st_mode & 0o777 == 0o600
            assert "sk-not-to-be-stored" not in path.read_text()
            worker = Worker(url)
            assert await imported(worker, path) == counts
            assert await seen(worker) == before
        # It goes on, and what was answered is answered again.
        (program,) = (one for one in worker.sessions.peek("mine").programs.values())  # type: ignore[union-attr]
        _, told = await worker.begin(program.id, "user")
        assert await worker.stored.conversations.answered(program, told, "0 2")
        await worker.end(program, told, {"question": "4", "thing": None, "answer": "-"})
        assert (await worker.questions(program.id, "user"))[-1] == "4"
        worker.store.close()

    asyncio.run(test())


def _row(lines: list[Line], table: str) -> Any:
    return next(line[table] for line in lines if table in line)


CHANGES: list[tuple[Callable[[list[Line]], object], str]] = [
    (lambda lines: lines[0].update(format="other"), "line 1: expected a file that export_store has written"),
    (lambda lines: lines[0].update(format_version=2), "line 1: the file has format_version 2, of a newer"),
    (lambda lines: lines.pop(), "line 9: expected further lines after this one: the file has been cut off"),
    (lambda lines: lines.pop(2), ": expected session 'other' before its program"),
    (lambda lines: lines.pop(3), " before its version"),
    (lambda lines: lines.pop(6), "line 9: expected the number of rows"),
    (lambda lines: lines.insert(3, lines[2]), "line 4: session 'other' is in the store, or in the file, already"),
    (lambda lines: lines.append({}), "line 11: expected nothing after the end"),
    (lambda lines: lines.insert(1, {"sesion": {}}), "line 2: expected an object with one of session"),
    (lambda lines: _row(lines, "session").update(owner="me"), "line 2: unknown column 'owner' of a session"),
    (lambda lines: _row(lines, "session").update({"x" * 300: 1}), f"unknown column '{'x' * 79}… of a session"),
    (lambda lines: _row(lines, "session").update(version="1"), "at session.version, got '1'"),
    (lambda lines: _row(lines, "session").pop("version"), "at session.version, got nothing"),
    (lambda lines: _row(lines, "turn").update(body="{}"), "line 9: expected an object at turn.body, got '{}'"),
    (lambda lines: _row(lines, "turn").update(number=2**62), "of the conversation, at turn.number, got"),
    (lambda lines: _row(lines, "program").update(id=""), "line 4: expected a text at program.id, got ''"),
    (lambda lines: _row(lines, "program").update(id="\ud800"), "expected text that is UTF-8 at program.id"),
    (lambda lines: _row(lines, "turn").update(request_key="\0"), "without a zero byte at turn.request_key"),
]


def test_wrong_line_is_named_and_nothing_is_imported(tmp_path: Path) -> None:
    async def test() -> None:
        first, second = (
            Worker(f"sqlite:///{tmp_path}/a.db?synchronous=OFF"),
            Worker(f"sqlite:///{tmp_path}/b.db?synchronous=OFF"),
        )
        program = await first.create(CHAT, "mine")
        await first.create("question -> answer", "other")
        _, told = await first.begin(program.id, "user")
        await first.end(program, told, {"question": "?", "thing": 1, "answer": "-"})
        path, wrong = tmp_path / "right.jsonl", tmp_path / "wrong.jsonl"
        await exported(first, path)
        with pytest.raises(OperationError, match="exists already"):
            await exported(first, path)
        lines = path.read_text().splitlines()
        texts = [("\n".join([lines[0], "{"]), "line 2: the file has been cut off in this line")]
        texts += [("\n".join([lines[0], "{", ""]), "line 2: expected JSON: Expecting property name")]
        # The first line of another file was told what is wrong with its JSON.
        texts += [
            (text, "line 1: expected a file that export_store") for text in ("", "# Title\n", "[1]\n", "[" * 99999)
        ]
        texts += [("\n".join([lines[0], "[" * 99999, ""]), "line 2: expected JSON: its values are nested too deeply")]
        texts += [
            ("\n".join([*lines[:2], *lines[1:]]), "already; import into a new store, or close its session before")
        ]
        texts += [("\n".join([lines[0], '{"session": NaN}']), "line 2: expected JSON: NaN is no JSON")]
        # These were told of Python's settings, of its codecs, and that the bridge has a fault.
        digits = "9" * 5000
        texts += [
            (
                "\n".join([lines[0], f'{{"session": {digits}}}', ""]),
                "line 2: expected JSON: it has a number that is too large",
            )
        ]
        (turn,) = (number for number, line in enumerate(lines) if '"thing":1' in line)
        huge = lines[turn].replace('"thing":1', '"thing":1e999')
        texts += [
            ("\n".join([*lines[:turn], huge, *lines[turn + 1 :]]), "numbers that a float can hold at turn.body"),
            ("\n".join([lines[0], '{"session": "\udcff"}', ""]), "line 2: expected JSON: its byte 13 is not UTF-8"),
        ]
        for change, problem in CHANGES:
            changed = [json.loads(line) for line in lines]
            change(changed)
            texts.append(("\n".join(map(json.dumps, changed)), problem))
        for text, problem in texts:
            wrong.write_bytes(text.encode(errors="surrogateescape"))
            with pytest.raises(OperationError) as caught:
                await imported(second, wrong)
            assert problem in caught.value.message
            assert await second.stored.all() == []
        # As an editor may have written it.
        text = "\r\n \n\n".join(lines)
        wrong.write_text(f"\ufeff{text}\n\n", newline="")
        await imported(second, wrong)
        with pytest.raises(OperationError, match="line 2: session 'mine' is in the store"):
            await imported(second, path)
        # Who closed the session for such a file had neither.
        for part in (lines[:-1], lines[:2]):
            for rest, problem in (("", "expected further lines after this one"), ('{"tu', "in this line")):
                wrong.write_text("\n".join([*part, rest]))
                with pytest.raises(OperationError, match=problem) as caught:
                    await imported(second, wrong)
                assert caught.value.message.startswith(f"line {len(part) + bool(rest)}: ")
        assert len(await second.stored.all()) == 2
        assert not [name for name in os.listdir(tmp_path) if ".part" in name]
        first.store.close()
        second.store.close()

    asyncio.run(test())


def test_command_needs_no_port(tmp_path: Path) -> None:
    first, path = f"sqlite:///{tmp_path}/a.db", str(tmp_path / "a.jsonl")
    worker = Worker(first)
    asyncio.run(worker.create("question -> answer", "mine"))
    worker.store.close()

    def run(*arguments: str, text: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "erlport_bridge.store", *arguments]
        return subprocess.run(command, input=text, capture_output=True, env={**os.environ, **variables}, check=False)

    done = run("export", path, "--store", first)
    assert (done.returncode, done.stderr) == (0, b"session: 1\nprogram: 1\nversion: 1\nconversation: 0\nturn: 0\n")
    done = run("import", "-", text=Path(path).read_bytes(), DSPEX_STORE=f"sqlite:///{tmp_path}/b.db")
    assert done.returncode == 0, done.stderr
    done = run("export", "-", DSPEX_STORE=f"sqlite:///{tmp_path}/b.db")
    assert done.stdout == Path(path).read_bytes()
    done = run("import", path, "--store", first)
    assert (done.returncode, b"line 2: session 'mine' is in the store" in done.stderr) == (1, True)
    wrong = run("export", "-", "--store", "sqlite:///").stderr
    assert b"expected the address of a store at --store, such as" in wrong
    assert b"there is no store" in run("export", "-", "--store", f"sqlite:///{tmp_path}/none.db").stderr
    done = run("export", "-", "--store", "postgresql://app:hunter2pass@db/x")
    assert (b"hunter2pass" in done.stderr, b"write it to DSPEX_STORE" in done.stderr) == (False, True)
