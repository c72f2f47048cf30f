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

# How long Python has to exit by itself when the port is closed: it ends its sandboxes in order and writes its last
# lines, which takes some milliseconds. With the time for the kill, the end stays well below a second.
_GRACE_MS = 400
# The interval at which to check whether Python still exists, on systems without process descriptors (other than
# Linux). A zombie process counts as existing.
_LOOK_MS = 200

_PORT = 0
_PYTHON = 1

# Above every descriptor that can be open when Python has just started; the Erlang side closes its own descriptors.
_MAX_DESCRIPTORS = 1024


def detach(descriptors: int) -> None:
    """Go on in an orphaned child process, and close all but the first ``descriptors`` file descriptors."""
    if os.fork():
        os._exit(0)
    # If this process kept a writing end of the port open, the other side would not notice Python's end.
    os.closerange(descriptors, _MAX_DESCRIPTORS)
    os.chdir("/")


def watch(python: int, *, has_descriptor: bool) -> None:
    """Wait for the end of the port or of Python, then kill Python's process group, to which this process belongs."""
    poller = select.poll()
    # No event is asked for, so poll reports only the hang-up, even while unread requests are in the pipe.
    poller.register(_PORT, 0)
    if has_descriptor:
        poller.register(_PYTHON, select.POLLIN)
        if _PYTHON not in dict(poller.poll()):
            poller.unregister(_PORT)
            poller.poll(_GRACE_MS)
    else:
        while _is_there(python):
            if poller.poll(_LOOK_MS):
                select.poll().poll(_GRACE_MS)
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
