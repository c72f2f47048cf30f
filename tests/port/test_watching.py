"""Test how the end of a pipe is noticed; that processes end then is tested in ``test_lifeline.py``."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from erlport_bridge.port import watching

READ, WRITE, ADD, CLEAR, EOF, LOWAT = -1, -2, 0x1, 0x20, 0x8000, 0x1


class Kevent(NamedTuple):
    """Stands in for ``select.kevent``, with the names of its fields."""

    ident: int
    filter: int
    flags: int
    fflags: int
    data: int


class Kqueue:
    """Stands in for ``select.kqueue`` where there is none: the end of a pipe sets EOF, data alone comes once.

    It reports data in spite of the low-water mark, as the real one does for a pipe that is full.
    """

    def __init__(self) -> None:
        self.watched: list[Kevent] = []
        self._was_reported = False

    def control(self, changes: list[Kevent] | None, most: int, timeout_s: float | None = None) -> list[Kevent]:
        """Register changes, and return events."""
        self.watched += changes or []
        if not most:
            return []
        (watched,) = self.watched
        assert watched.flags == ADD | CLEAR
        assert watched.fflags == LOWAT
        poller = select.poll()
        is_read = watched.filter == READ
        poller.register(watched.ident, 0 if self._was_reported else select.POLLIN if is_read else select.POLLOUT)
        ready = poller.poll(None if timeout_s is None else timeout_s * 1000)
        self._was_reported = True
        return [
            watched._replace(flags=EOF if event & (select.POLLHUP | select.POLLERR) else 0) for _place, event in ready
        ]


@pytest.fixture(params=["poll", "kqueue"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Notice the end of a pipe by this function of the system."""
    if request.param == "poll":
        monkeypatch.delattr(select, "kqueue", raising=False)
        if os.uname().sysname != "Linux":
            pytest.skip("poll does not report a hang-up alone")
    elif not hasattr(select, "kqueue"):
        names: dict[str, Any] = {
            "kqueue": Kqueue,
            "kevent": Kevent,
            "KQ_FILTER_READ": READ,
            "KQ_FILTER_WRITE": WRITE,
            "KQ_EV_ADD": ADD,
            "KQ_EV_CLEAR": CLEAR,
            "KQ_EV_EOF": EOF,
            "KQ_NOTE_LOWAT": LOWAT,
        }
        for name, value in names.items():
            monkeypatch.setattr(select, name, value, raising=False)
    return str(request.param)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe; a test closes one of them."""
    yield (ends := os.pipe())
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_the_way_is_that_of_the_system(way: str, pipe: tuple[int, int]) -> None:
    expected = {"poll": watching.Polled, "kqueue": watching.Queued}[way]
    assert type(watching.hang_up(pipe[0])) is expected


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("data", [b"", b"unread requests"])
def test_the_end_of_the_writer_is_noticed_even_with_unread_data(pipe: tuple[int, int], data: bytes) -> None:
    read, write = pipe
    waiting = watching.hang_up(read)
    os.write(write, data)
    assert not waiting.wait(10)
    threading.Timer(0.05, os.close, [write]).start()
    assert waiting.wait()


@pytest.mark.usefixtures("way")
def test_the_end_of_the_reader_is_noticed(pipe: tuple[int, int]) -> None:
    read, write = pipe
    waiting = watching.hang_up(write, is_written=True)
    assert not waiting.wait(10)
    threading.Timer(0.05, os.close, [read]).start()
    assert waiting.wait()
