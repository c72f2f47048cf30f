"""Provide template processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proc import HAS_PROC
from tests.template_process import TemplateProcess, python_path

BUSY_MODULE = """
import os, pathlib, signal, subprocess, sys, time

def has_a_child():
    child = subprocess.Popen(["sleep", "1000"])
    pathlib.Path(os.environ["READY"]).write_text(f"{os.getpid()} {child.pid}")

def keeps_the_lock():
    has_a_child()
    sum(range(10**13))

def sleeps():
    has_a_child()
    time.sleep(1000)

def is_stopped():
    has_a_child()
    os.kill(os.getpid(), signal.SIGSTOP)

def exits(status):
    os._exit(status)

def dies_of(number):
    os.kill(os.getpid(), number)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what forks where the system has no ``/proc``."""
    for item in items:
        if not HAS_PROC and Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="the system has no /proc"))


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """Return the file to which ``busy`` writes the process ids of Python and its child."""
    return tmp_path / "ready"


@pytest.fixture
def environment(tmp_path: Path, ready: Path) -> dict[str, str]:
    """Return an environment in which ``busy`` can be imported."""
    (tmp_path / "busy.py").write_text(BUSY_MODULE)
    return {"PYTHONPATH": python_path(tmp_path), "READY": str(ready)}


@pytest.fixture
def template(environment: dict[str, str]) -> Iterator[TemplateProcess]:
    """Yield a template process that knows the module ``busy`` and not DSPy, so that it is ready soon."""
    with TemplateProcess(["--preload=busy"], environment) as template:
        yield template
