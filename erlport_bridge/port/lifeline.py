"""Ends this process and its children when the other side of the port is gone, however busy they are.

A thread cannot do that: while C code keeps Python's lock, or when the process is stopped, no thread of Python runs. So
a small process (``watching.py``) is started before anything else is there. It sleeps until the other side has closed
the port, or until Python has ended, and then kills Python's process group: Python, its sandboxes and all that user code
has started, but for what has left the group on purpose (``start_new_session``).

``PR_SET_PDEATHSIG`` does not help: the parent of a port's program is ``erl_child_setup``, and of Deno a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Final

# A process of its own program: a mere fork of this one would keep 8 MB more of its memory, and until it has become
# another program each page that this one writes to would be copied first, which takes 20 ms of the start.
_PROGRAM: Final = str(Path(__file__).with_name("watching.py"))

# A signal for the whole group is meant for the others; that process ends after them.
_NOT_FOR_IT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(read_descriptor: int) -> int:
    """Start to watch; to be called before anything that must not stay when the other side is gone.

    The calling process becomes the leader of its process group if it is not yet. Under a BEAM it is.

    Args:
        read_descriptor: The end of the port that this process reads. Its other end is held by the BEAM alone.

    Returns:
        A process for :func:`wait_until_detached`.

    Raises:
        OSError: The system has no room for another process.
    """
    python = os.getpid()
    if os.getpgrp() != python:
        os.setpgid(0, 0)
    # Opened here, so that it is this process's even if it ended in the next moment.
    process = _process_descriptor(python)
    try:
        descriptors = [read_descriptor] if process is None else [read_descriptor, process]
        arguments = [sys.executable, "-I", "-S", _PROGRAM, str(python), str(len(descriptors))]
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, place) for place, descriptor in enumerate(descriptors)]
        between = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=actions, setsigmask=_NOT_FOR_IT)
    finally:
        if process is not None:
            os.close(process)
    return between


def wait_until_detached(between: int) -> None:
    """Wait, some 15 ms after :func:`start`, until the process that watches is nobody's child.

    User code that waits for all of its children must not wait for this one.
    """
    with contextlib.suppress(ChildProcessError):  # somebody has, already
        os.waitpid(between, 0)


def _process_descriptor(python: int) -> int | None:
    # A Python that was built with the headers of a kernel before 5.3 lacks it, such as older builds of conda and uv.
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        # A kernel before 5.3, or a container that allows no call it does not know.
        with contextlib.suppress(OSError):
            return os.pidfd_open(python)
    return None
