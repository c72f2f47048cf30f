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
from typing import Final, NoReturn

# A process of its own program: a mere fork of this one would keep 8 MB more of its memory.
_PROGRAM: Final = str(Path(__file__).with_name("watching.py"))

# All that can be open when the process has just started; the Erlang side closes its own.
_MAX_DESCRIPTORS: Final = 1024


def start(read_descriptor: int) -> None:
    """Start to watch; to be called before there is any other thread.

    The calling process becomes the leader of its process group if it is not yet. Under a BEAM it is.

    Args:
        read_descriptor: The end of the port that this process reads. Its other end is held by the BEAM alone.

    Raises:
        OSError: The system has no room for another process.
    """
    python = os.getpid()
    if os.getpgrp() != python:
        os.setpgid(0, 0)
    # Opened here, so that it is this process's even if it ended in the next moment.
    process = _process_descriptor(python)
    try:
        # By way of a child that ends at once: user code that waits for all of its children must not wait for this one.
        between = os.fork()
        if between == 0:
            _start_detached(python, read_descriptor, process)
        os.waitpid(between, 0)
    finally:
        if process is not None:
            os.close(process)


def _process_descriptor(python: int) -> int | None:
    if sys.platform == "linux":
        # A kernel before 5.3, or a container that allows no call it does not know.
        with contextlib.suppress(OSError):
            return os.pidfd_open(python)
    return None


def _start_detached(python: int, read_descriptor: int, process: int | None) -> NoReturn:
    try:
        if os.fork() == 0:
            descriptors = [read_descriptor] if process is None else [read_descriptor, process]
            for place, descriptor in enumerate(descriptors):
                os.dup2(descriptor, place)
            # A writing end that stayed open would hide Python's end from the other side.
            os.closerange(len(descriptors), _MAX_DESCRIPTORS)
            # A signal for the whole group is meant for the others; the watching process ends after them.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.chdir("/")
            arguments = ["-I", "-S", _PROGRAM, str(python), str(len(descriptors))]
            os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - no shell
    finally:
        # Never back into the caller's code, whatever happens.
        os._exit(0)
