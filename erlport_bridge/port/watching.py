"""The program that watches a Python and its port, see ``lifeline.py``.

``python watching.py PID COUNT``, where PID leads the process group that this process is in too, and COUNT is how many
descriptors it is given: 0, the end of the port that Python reads, and where the system has such, 1, the process as
:func:`os.pidfd_open` gives it. Imports nothing that is not there anyway: as many of these processes run as there are
ports.
"""

import os
import select
import signal
import sys

# How long Python has to leave by itself when the port is closed, which ends its sandboxes in order and writes its last
# lines. It needs some milliseconds; with the time to kill it stays well below a second.
_GRACE_MS = 400
# How often is looked whether Python is still there, where there are no descriptors of processes (other systems than
# Linux). One that has ended and is not yet buried counts as being there.
_LOOK_MS = 200

_PORT = 0
_PYTHON = 1

# All that can be open when Python has just started; the Erlang side closes its own.
_MAX_DESCRIPTORS = 1024


def detach(descriptors: int) -> None:
    """Go on in a child that is nobody's, and let go of all but so many descriptors."""
    if os.fork():
        os._exit(0)
    # A writing end of the port that stayed open would hide Python's end from the other side.
    os.closerange(descriptors, _MAX_DESCRIPTORS)
    os.chdir("/")


def watch(python: int, *, has_descriptor: bool) -> None:
    """Wait for the end of the port or of Python, then kill Python's process group, to which this process belongs."""
    poller = select.poll()
    # No event is asked for, so only the hang-up is told: also while there are requests that nobody reads.
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
    # The number cannot be another group's: it is in use as long as this process is a member of the group.
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
