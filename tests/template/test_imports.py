"""Test that a process is not forked after an import that leaves behind what forked processes must not share."""

from __future__ import annotations

from pathlib import Path

import pytest

from erlport_bridge.template.process import UNFIT
from tests.template_process import TemplateProcess

LEAVES = {
    "a thread": (
        "import threading, time\ndef work(): time.sleep(1000)\nthreading.Thread(target=work, daemon=True).start()",
        "has started the thread 'Thread-1 (work)' of leaves.work",
    ),
    "a thread that Python does not know": (
        "import _thread, time\n_thread.start_new_thread(time.sleep, (1000,))",
        "has started 1 thread in C code",
    ),
    "an event loop in a thread": (
        "import asyncio, threading\nloop = asyncio.new_event_loop()\n"
        "threading.Thread(target=loop.run_forever, name='loop', daemon=True).start()",
        "has started the thread 'loop' of asyncio.base_events.BaseEventLoop.run_forever",
    ),
    "an event loop": ("import asyncio\nloop = asyncio.new_event_loop()", "has opened "),
    "a socket": ("import socket\nsocket_ = socket.socket()", "has opened a socket"),
    "a pipe": ("import os\nends = os.pipe()", "has opened pipe:["),
    "a database": (
        "import sqlite3\nbase = sqlite3.connect('here.db')\nbase.execute('create table if not exists t(x)')",
        "has opened ",
    ),
    "a file that is written": ("file = open('here.txt', 'w')", "has opened "),
    "another process": (
        "import subprocess\nchild = subprocess.Popen(['sleep', '1000'])",
        "has started another process",
    ),
}
LEAVES_NOTHING = {
    "a log file": "import logging\nlogging.basicConfig(filename='here.log')",
    "a file that is read": "file = open(__file__)",
    "an ended thread": "import threading\nthread = threading.Thread(target=print)\nthread.start()\nthread.join()",
    "a thread that is just ending": "import _thread, time\n_thread.start_new_thread(time.sleep, (0.1,))",
    "devices": "a = open('/dev/null', 'w')\nb = open('/dev/urandom', 'rb')",
    "asyncio.run": "import asyncio\nasyncio.run(asyncio.sleep(0))",
}


@pytest.mark.parametrize("kind", LEAVES)
def test_template_that_must_not_be_forked_ends_and_names_the_module(
    kind: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, found = LEAVES[kind]
    (tmp_path / "leaves.py").write_text(code)
    with TemplateProcess(["--preload=busy,leaves"], environment) as template:
        with template.worker() as worker:
            assert not worker.is_forked()
        text = template.port.stderr_text()
        assert template.port.process.wait() == UNFIT
    assert f"workers are started one by one, without a template process: importing 'leaves' {found}" in text


@pytest.mark.parametrize("kind", LEAVES_NOTHING)
def test_template_is_forked_after_an_import_that_leaves_nothing(
    kind: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.py").write_text(LEAVES_NOTHING[kind])
    with TemplateProcess(["--preload=leaves"], environment) as template, template.worker() as worker:
        assert worker.is_forked()


@pytest.mark.parametrize("code", ["import no_such_module", "raise ValueError('not today')", "1 +"])
def test_module_that_cannot_be_imported_is_reported_by_the_template_as_by_a_worker(
    code: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(code)
    with TemplateProcess(["--preload=broken"], environment) as template, template.worker() as worker:
        texts = {template.port.stderr_text(), worker.stderr_text()}
        assert (template.port.process.wait(), worker.process.wait()) == (1, 1)
    [text] = texts
    assert "cannot preload 'broken'" in text
