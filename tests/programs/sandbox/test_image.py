"""Test the image of Pyodide's memory from which sandboxes start."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.programs.sandbox import deno, image, sandboxes
from erlport_bridge.programs.sandbox.interpreter import Interpreter

# Imported in the image, and not by a start of Pyodide.
IS_FROM_IMAGE = "import json, sys\nprint(json.dumps('statistics' in sys.modules))"
OWN = "import json, logging, random\nprint(json.dumps([random.random(), logging._startTime]))"
ZONE = "import json, time\nprint(json.dumps(time.tzname))"


@pytest.fixture
def cache(prepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the content of Deno's cache, which takes its place."""
    told = deno.cache_folder(executable())
    assert told is not None
    folder = tmp_path / "cache with spaces"
    shutil.copytree(told, folder)
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
    sandboxes.prepare()
    assert executed(IS_FROM_IMAGE) == [True]
    # Removed while this process runs.
    path.unlink()
    assert executed(IS_FROM_IMAGE) == [False]


def test_image_that_cannot_be_made_is_logged_and_sandboxes_start(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(cache / "dspex")
    (cache / "dspex").write_text("a file where its folder would be")
    with caplog.at_level(logging.WARNING):
        sandboxes.prepare()
    assert "the image of their memory cannot be made" in caplog.text
    assert executed(IS_FROM_IMAGE, "print(6 * 7)") == [False, 42]
