"""Test frames that many threads write, to a reader that may not read (back-pressure)."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator

import pytest

from erlport_bridge.port.writer import FrameWriter

PIPE_BYTES = 4_096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the reading and the writing end of a small pipe."""
    read, write = os.pipe()
    # Elsewhere pipes have 16 or 64 KiB, which the tests fill too.
    with contextlib.suppress(AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            assert descriptor == read  # closed by the test


def unexpected(error: OSError) -> None:
    raise AssertionError(error)


def read_all(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, 65_536)
    return data


def test_unread_frames_are_queued_and_arrive_in_order(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = FrameWriter(write, unexpected)
    frames = [bytes([number]) * 1_000 for number in range(100)]
    for frame in frames:
        writer.send([frame])  # does not block, although nobody reads
    assert read_all(read, 100_000) == b"".join(frames)
    writer.send([b"after"])
    assert read_all(read, 5) == b"after"


def test_frames_of_many_threads_are_whole(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = FrameWriter(write, unexpected)
    size, count = 700, 200

    def send(number: int) -> None:
        for _ in range(count):
            writer.send([bytes([number]) * size])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    data = read_all(read, 8 * count * size)
    for thread in threads:
        thread.join()
    frames = [data[start : start + size] for start in range(0, len(data), size)]
    assert all(len(set(frame)) == 1 for frame in frames)
    assert sorted(frame[0] for frame in frames) == sorted(list(range(8)) * count)


def test_closed_reading_end_is_reported_once(pipe: tuple[int, int]) -> None:
    read, write = pipe
    errors: list[OSError] = []
    writer = FrameWriter(write, errors.append)
    os.close(read)
    for _ in range(3):
        writer.send([b"lost"])
    assert [type(error) for error in errors] == [BrokenPipeError]


def test_reading_end_that_is_closed_while_frames_are_queued_is_reported(pipe: tuple[int, int]) -> None:
    read, write = pipe
    told = threading.Event()
    writer = FrameWriter(write, lambda _error: told.set())
    for _ in range(20):
        writer.send([b"x" * 1_000])
    os.close(read)
    assert told.wait(timeout=20)


def test_an_exception_while_a_frame_is_written_does_not_stop_the_others(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = FrameWriter(write, unexpected)
    with pytest.raises(TypeError):
        writer.send([None])  # type: ignore[list-item]
    writer.send([b"next"])
    assert read_all(read, 4) == b"next"


def test_no_more_than_some_frames_are_held(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = FrameWriter(write, unexpected)
    for number in range(100):
        writer.hold([b"%03d" % number, b"."])
    os.set_blocking(read, False)
    assert 80 * 4 < len(os.read(read, 1_000)) < 100 * 4


def test_thread_that_claims_the_pipe_is_the_only_writer_until_it_releases_it(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = FrameWriter(write, unexpected)
    assert writer.claim()
    assert not writer.claim()
    writer.send([b"after"])
    os.write(write, b"first, ")
    writer.release(b"its rest, ")
    assert read_all(read, 22) == b"first, its rest, after"
    writer.hold([b"held"])
    assert not writer.claim()
    writer.flush()
    assert read_all(read, 4) == b"held"
    assert writer.claim()
    writer.release(b"")
    writer.send([b"last"])
    assert read_all(read, 4) == b"last"


def test_held_frames_are_written_with_the_next_frame_or_by_a_flush(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = FrameWriter(write, unexpected)
    for number in range(10):
        writer.hold([b"%03d" % number, b"."])
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    writer.flush()
    assert os.read(read, 1_000) == b"".join(b"%03d." % number for number in range(10))
    writer.hold([b"held"])
    writer.send([b"sent"])
    assert os.read(read, 1_000) == b"heldsent"
