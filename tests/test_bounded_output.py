"""Test that output which nobody reads holds nothing up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from erlport_bridge import bounded_output
from erlport_bridge.bounded_output import BoundedOutput
from tests.port_process import PortProcess


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the reading and the writing end of a pipe, and close what a test has left open."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def read_now(descriptor: int) -> bytes:
    """Return all that a pipe has."""
    os.set_blocking(descriptor, False)
    found = b""
    while True:
        try:
            part = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return found
        if not part:
            return found
        found += part


def test_what_is_read_is_written_whole(pipe: tuple[int, int]) -> None:
    read, write = pipe
    output = BoundedOutput(write)
    data = os.urandom(1_000_000)
    found = bytearray()

    def reads_slowly() -> None:
        while len(found) < len(data):
            time.sleep(0.001)
            found.extend(os.read(read, 10_000))

    reader = threading.Thread(target=reads_slowly)
    reader.start()
    assert output.write(data) == len(data)
    reader.join(60)
    assert bytes(found) == data


@pytest.mark.parametrize("waits", [True, False])
def test_what_nobody_reads_is_dropped_and_counted(pipe: tuple[int, int], waits: bool) -> None:
    read, write = pipe
    os.set_blocking(write, waits)
    output = BoundedOutput(write)
    began_at = time.monotonic()
    for _ in range(1_000):
        assert output.write(b"x" * 1_000) == 1_000
    assert time.monotonic() - began_at < 10 * bounded_output.PATIENCE_S
    first = read_now(read)
    assert set(first) == {ord("x")}
    output.write(b"and on\n")
    note, after = read_now(read).decode().splitlines()
    assert note == f"[{1_000_000 - len(first)} bytes are missing here: nobody read this output for a while]"
    assert after == "and on"


def test_many_threads_are_not_held_up(pipe: tuple[int, int]) -> None:
    output = BoundedOutput(pipe[1])
    threads = [
        threading.Thread(target=lambda: [output.write(b"y" * 5_000) for _ in range(50)], daemon=True) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_reader_that_is_gone_is_an_error(pipe: tuple[int, int]) -> None:
    read, write = pipe
    output = BoundedOutput(write)
    os.close(read)
    with pytest.raises(BrokenPipeError):
        output.write(b"z")


def test_port_whose_stderr_nobody_reads_answers(pipe: tuple[int, int]) -> None:
    with PortProcess(stderr=pipe[1]) as port:
        for number in range(200):
            port.call("logging", "error", f"{number}: " + "w" * 1_000)
        assert port.done("ping", None)
    assert read_now(pipe[0]).count(b"w" * 1_000) < 100
