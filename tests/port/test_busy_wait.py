"""Test busy-waiting: it ends with the awaited data or at its limit, and is left out where it would not help."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from erlport_bridge.port import busy_wait

native = pytest.importorskip("erlport_bridge.port.native", reason="installed without a C compiler")
LONG_NS = 60_000_000_000


@pytest.fixture
def ends() -> tuple[int, int]:
    return os.pipe()


def test_busy_wait_ends_with_the_awaited_data_while_other_threads_run(ends: tuple[int, int]) -> None:
    read, write = ends
    writer = threading.Timer(0.05, os.write, (write, b"x"))
    writer.start()
    # If the wait held the GIL, the other thread could not write, and this would take a minute.
    native.wait(read, LONG_NS)
    assert os.read(read, 1) == b"x"
    writer.join()


def test_busy_wait_ends_at_once_when_there_is_data_or_the_pipe_is_closed(ends: tuple[int, int]) -> None:
    read, write = ends
    os.write(write, b"x")
    native.wait(read, LONG_NS)
    assert os.read(read, 1) == b"x"
    os.close(write)
    native.wait(read, LONG_NS)
    assert os.read(read, 1) == b""


def test_busy_wait_ends_at_its_limit(ends: tuple[int, int]) -> None:
    started_at = time.monotonic_ns()
    native.wait(ends[0], 2_000_000)
    assert time.monotonic_ns() - started_at >= 2_000_000
    busy_wait.wait(ends[0])


@pytest.mark.parametrize(
    ("worked_s", "waited_ns"),
    [(0.0, 50_000), (0.00001, 50_000), (0.00012, 120_000), (0.01, 200_000), (3600.0, 200_000)],
)
def test_busy_wait_is_as_long_as_the_work_before_within_bounds(
    monkeypatch: pytest.MonkeyPatch, worked_s: float, waited_ns: int
) -> None:
    waits: list[tuple[int, int]] = []
    monkeypatch.setattr(busy_wait, "native", SimpleNamespace(wait=lambda *wait: waits.append(wait)))
    monkeypatch.setattr(busy_wait, "IS_WORTHWHILE", True)
    busy_wait.wait(7, worked_s)
    assert waits == [(7, waited_ns)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of processes")
def test_busy_wait_is_left_out_with_one_core() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from erlport_bridge.port import busy_wait; print(busy_wait.IS_WORTHWHILE)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
