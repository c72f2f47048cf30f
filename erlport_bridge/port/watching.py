"""Watch a Python process and its port, and kill its process group at the end of either; see ``lifeline.py``.

Usage: ``python watching.py PID COUNT``. PID is the leader of the process group, to which this process belongs too.
COUNT is the number of file descriptors that this process inherits. Descriptor 0 is the end of the port that Python
reads. Descriptor 1, where the system has such, is Python's process as :func:`os.pidfd_open` returns it. This program
imports only modules that Python has loaded anyway, because there is one such process for each port.
"""

import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Its kqueue, which typing knows on macOS and the BSDs only.
_bsd: "Any" = select

# How long Python has to exit by itself when the port is closed: it ends its sandboxes in order and writes its last
# lines, which takes some milliseconds. With the time for the kill, the end stays well below a second.
_GRACE_MS = 400
# The interval at which to check whether Python still exists, on systems without process descriptors (other than
# Linux). A zombie process counts as existing.
_LOOK_MS = 200

_PORT = 0
_PYTHON = 1

# More bytes than any pipe holds: the kernel then never reports that data has come, or that there is room for it.
_MORE_THAN_A_PIPE_HOLDS = 1 << 30

# Above every descriptor that can be open when Python has just started; the Erlang side closes its own descriptors.
_MAX_DESCRIPTORS = 1024


def detach(descriptors: int) -> None:
    """Go on in an orphaned child process, and close all but the first ``descriptors`` file descriptors."""
    if os.fork():
        os._exit(0)
    # If this process kept a writing end of the port open, the other side would not notice Python's end.
    os.closerange(descriptors, _MAX_DESCRIPTORS)
    os.chdir("/")


class Polled:
    """Waits by ``poll`` until nobody holds the other end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._poller = select.poll()
        # No event is asked for, so poll reports only the hang-up, even while unread requests are in the pipe.
        self._poller.register(descriptor, 0)

    def wait(self, timeout_ms: int | None = None) -> bool:
        """Wait, for ``timeout_ms`` at most; return whether the other end is closed."""
        return bool(self._poller.poll(timeout_ms))


class Queued:
    """Waits by ``kqueue`` until nobody holds the other end of a pipe.

    On macOS and the BSDs, where ``poll`` reports no hang-up if no event is asked for. The end is reported once.
    """

    def __init__(self, descriptor: int, *, is_written: bool = False) -> None:
        self._queue = _bsd.kqueue()
        change = _bsd.kevent(
            descriptor,
            filter=_bsd.KQ_FILTER_WRITE if is_written else _bsd.KQ_FILTER_READ,
            # Cleared, so that a full pipe, which the mark does not hold back, is reported once and not all the time.
            flags=_bsd.KQ_EV_ADD | _bsd.KQ_EV_CLEAR,
            fflags=_bsd.KQ_NOTE_LOWAT,
            data=_MORE_THAN_A_PIPE_HOLDS,
        )
        self._queue.control([change], 0)

    def wait(self, timeout_ms: int | None = None) -> bool:
        """Wait, for ``timeout_ms`` at most; return whether the other end is closed."""
        ends_at = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            left_s = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            events = self._queue.control(None, 1, left_s)
            if any(event.flags & _bsd.KQ_EV_EOF for event in events):
                return True
            if not events:
                return False


def hang_up(descriptor: int, *, is_written: bool = False) -> Polled | Queued:
    """Return what waits for the end of a pipe.

    Args:
        descriptor: This process's end of the pipe.
        is_written: Whether this process writes to the pipe, rather than reads.
    """
    if hasattr(select, "kqueue"):
        return Queued(descriptor, is_written=is_written)
    return Polled(descriptor)


def watch(python: int, *, has_descriptor: bool) -> None:
    """Wait for the end of the port or of Python, then kill Python's process group, to which this process belongs."""
    if has_descriptor:
        poller = select.poll()
        poller.register(_PORT, 0)
        poller.register(_PYTHON, select.POLLIN)
        if _PYTHON not in dict(poller.poll()):
            poller.unregister(_PORT)
            poller.poll(_GRACE_MS)
    else:
        port = hang_up(_PORT)
        while _is_there(python):
            if port.wait(_LOOK_MS):
                time.sleep(_GRACE_MS / 1000)
                break
    # The number cannot belong to another group: it is in use as long as this process is a member of the group.
    os.killpg(python, signal.SIGKILL)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    detach(int(sys.argv[2]))
    watch(int(sys.argv[1]), has_descriptor=int(sys.argv[2]) > _PYTHON)
