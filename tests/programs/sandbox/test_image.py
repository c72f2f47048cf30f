"""Test the image of Pyodide's memory from which sandboxes start."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox import deno, image, sandboxes
from erlport_bridge.programs.sandbox.interpreter import Interpreter

# Imported in the image, and not by a start of Pyodide.
IS_FROM_IMAGE = "import json, sys\nprint(json.dumps('statistics' in sys.modules))"
OWN = "import json, logging, random\nprint(json.dumps([random.random(), logging._startTime]))"
LANGUAGE = "import json, os\nprint(json.dumps(os.environ['LANG']))"
ZONE = "import json, time\nprint(json.dumps(time.tzname))"


@pytest.fixture
def cache(prepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the content of Deno's cache, which takes its place."""
    told = deno.cache_folder(executable())
    assert told is not None
    folder = tmp_path / "cache with spaces"
    # Other processes may remove or replace these meanwhile.
    shutil.copytree(told, folder, ignore=shutil.ignore_patterns("*_cache_v2*", "*.part"))
    monkeypatch.setenv("DENO_DIR", str(folder))
    monkeypatch.setattr(image, "_found", None)
    return folder


def executable() -> str:
    return str(Interpreter().deno_command[0])


def executed(*programs: str) -> list[Any]:
    """Return what programs print as JSON in a new sandbox."""
    interpreter = Interpreter.started()
    try:
        return [json.loads(interpreter.execute(program)) for program in programs]
    finally:
        interpreter.shutdown()


def test_sandboxes_start_from_the_image_and_differ_where_they_must(prepared: None) -> None:
    is_from_image, (number, began) = executed(IS_FROM_IMAGE, OWN)
    assert is_from_image
    _, (other_number, other_began) = executed(IS_FROM_IMAGE, OWN)
    assert number != other_number
    assert began < other_began


def test_processes_that_need_it_at_once_make_one_image_of_their_time_zone(cache: Path) -> None:
    shutil.rmtree(cache / "dspex")
    script = """
from erlport_bridge.programs.sandbox import sandboxes
from tests.programs.sandbox.test_image import *
sandboxes.prepare()
print(executed(IS_FROM_IMAGE, ZONE))
"""
    command, environment = [sys.executable, "-c", script], os.environ | {"TZ": "Asia/Tokyo"}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert (process.returncode, output.strip()) == (0, "[True, ['UTC+0900', 'UTC+0900']]")
    assert sorted(path.suffix for path in (cache / "dspex").iterdir()) == ["", ".image"]


def test_damaged_image_is_made_anew(cache: Path) -> None:
    """No sandbox started from it."""
    sandboxes.prepare()
    [option] = image.argument()
    path = Path(option.partition("=")[2])
    assert path.is_relative_to(cache)
    data = path.read_bytes()
    for damaged in (data[:-1], bytes(len(data)), b"", b"x" + data[1:]):
        path.write_bytes(damaged)
        assert not image._is_whole(path)
    # Of other versions.
    used, unused = (path.with_name(f"{name}.image") for name in ("used", "unused"))
    for other, days in ((used, 29), (unused, 31)):
        other.write_bytes(b"an image")
        os.utime(other, (time.time(), time.time() - days * 24 * 3600))
    sandboxes.prepare()
    assert executed(IS_FROM_IMAGE) == [True]
    assert (used.exists(), unused.exists()) == (True, False)
    # It is used when a process finds it.
    os.utime(path, (0, 0))
    assert image.find(executable())
    assert path.stat().st_mtime > time.time() - 600
    # Removed while this process runs.
    path.unlink()
    assert executed(IS_FROM_IMAGE) == [False]


@pytest.mark.long
def test_image_that_cannot_be_made_is_logged_and_sandboxes_start(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(cache / "dspex")
    (cache / "dspex").write_text("a file where its folder would be")
    with caplog.at_level(logging.WARNING):
        sandboxes.prepare()
    assert "the image of their memory cannot be made" in caplog.text
    assert executed(IS_FROM_IMAGE, "print(6 * 7)") == [False, 42]


def found() -> Path:
    [option] = image.argument()
    return Path(option.partition("=")[2])


@pytest.mark.long
def test_cache_behind_a_link_has_an_image(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maker was granted the path of the link, and Deno asks for the right to read what is behind it."""
    shutil.rmtree(cache / "dspex")
    link = tmp_path / "link"
    link.symlink_to(cache)
    monkeypatch.setenv("DENO_DIR", str(link))
    sandboxes.prepare()
    assert executed(IS_FROM_IMAGE) == [True]


def test_cache_with_a_comma_in_its_path_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Deno splits paths at commas: this one gave code in the sandbox the right to read all files."""
    monkeypatch.setenv("DENO_DIR", f"{tmp_path},/")
    with pytest.raises(OperationError, match=r"has a comma; set DENO_DIR") as raised:
        sandboxes.prepare()
    assert raised.value.kind == "missing_dependency"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pipe", "sparse file", "folder"])
def test_what_is_no_image_is_replaced_or_logged(cache: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The reader of a pipe waited for ever, and of a file larger than the memory raised."""
    sandboxes.prepare()
    path = found()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 43)
    # In a process that has found the image before, and in another one.
    assert executed(IS_FROM_IMAGE) == [False]
    sandboxes.prepare()
    is_replaced = kind != "folder"
    assert executed(IS_FROM_IMAGE) == [is_replaced]
    assert ("the image of their memory cannot be made" in caplog.text) != is_replaced


@pytest.mark.long
def test_image_damaged_while_a_process_runs_ends_no_call(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    sandboxes.prepare()
    found().write_bytes(b"x" * 100_000)
    opened = len(os.listdir("/dev/fd"))
    assert executed(IS_FROM_IMAGE) == [False]
    assert len(os.listdir("/dev/fd")) == opened
    assert "no sandbox starts from the image" in caplog.text
    assert image.argument() == []
    sandboxes.prepare()
    assert executed(IS_FROM_IMAGE) == [True]


def test_maker_that_fails_leaves_no_part(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk the part that was written stayed."""
    shutil.rmtree(cache / "dspex")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for Deno's own caches, and too little for an image.
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, limit[1]))
    try:
        sandboxes.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "the image of their memory cannot be made" in caplog.text
    assert [path.name for path in (cache / "dspex").iterdir()] == ["lock"]


@pytest.mark.long
def test_maker_that_is_killed_leaves_no_part(cache: Path) -> None:
    """Its Deno went on, and wrote to the file of the next maker, or to one that nobody removed."""
    shutil.rmtree(cache / "dspex")
    script = "from erlport_bridge.programs.sandbox import sandboxes; sandboxes.prepare()"
    maker = subprocess.Popen([sys.executable, "-c", script])
    while not list((cache / "dspex").glob("*.part")):
        assert maker.poll() is None
        time.sleep(0.01)
    maker.kill()
    maker.wait()
    sandboxes.prepare()
    assert sorted(path.suffix for path in (cache / "dspex").iterdir()) == ["", ".image"]


def test_wait_for_a_process_that_makes_the_image_has_an_end(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that was stopped while it made the image held up all others for ever."""
    monkeypatch.setattr(image, "_TIMEOUT_S", 1)
    shutil.rmtree(cache / "dspex")
    (cache / "dspex").mkdir()
    with (cache / "dspex" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began_at = time.monotonic()
        sandboxes.prepare()
        assert 1 <= time.monotonic() - began_at < 30
    assert f"another process holds {str(cache / 'dspex' / 'lock')!r}" in caplog.text


@pytest.mark.long
def test_zones_that_only_deno_tells_apart_have_images_of_their_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system takes ``CET-1CEST`` for the zone of Berlin, and JavaScript for UTC."""
    paths = set()
    try:
        for zone in ("Europe/Berlin", "CET-1CEST"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            sandboxes.prepare()
            paths.add(found())
            monkeypatch.setattr(image, "_found", None)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert len(paths) == 2


def test_sandbox_from_the_image_has_the_language_of_its_process(
    prepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had the language of the process that made the image, and the empty path twice."""
    path = "import json, sys\nprint(json.dumps(sys.path.count('')))"
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert executed(IS_FROM_IMAGE, LANGUAGE, path) == [True, "de_DE.UTF-8", 1]
