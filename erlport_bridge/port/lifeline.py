"""End this process and its child processes when the other side of the port is gone, however busy they are.

A thread cannot do that: no thread of Python runs while C code holds the GIL, or while the process is stopped. So a
small process (``watching.py``) is started before anything else. It sleeps until the other side has closed the port, or
until Python has ended. Then it kills Python's process group: Python, its sandboxes and all processes that user code has
started, except processes that left the group on purpose (``start_new_session``).

``PR_SET_PDEATHSIG`` does not help: the parent of a port's program is ``erl_child_setup``, and the parent of Deno is a
thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Final

# A program of its own, not a mere fork: a fork would keep 8 MB more of this process's memory. And until its exec, each
# page that this process writes to would be copied first, which takes 20 ms of the start.
_PROGRAM: Final = str(Path(__file__).with_name("watching.py"))

# Signals that the watching process blocks: a signal to the group is meant for the others, and it ends after them.
_NOT_FOR_IT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(read_descriptor: int) -> int:
    """Start the watching process; call this before anything starts that must not outlive the port.

    The calling process becomes the leader of its process group if it is not yet. Under a BEAM it is.

    Args:
        read_descriptor: The end of the port that this process reads. Only the BEAM holds the other end.

    Returns:
        The id of a process, for :func:`wait_until_detached`.

    Raises:
        OSError: The system cannot start another process.
    """
    python = os.getpid()
    if os.getpgrp() != python:
        os.setpgid(0, 0)
    # Opened here, so that it refers to this process even if the process ends in the next moment.
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
    """Wait, some 15 ms after :func:`start`, until the watching process is no child of this process any more.

    User code that waits for all of its child processes must not wait for the watching process.
    """
    with contextlib.suppress(ChildProcessError):  # other code has waited for it already
        os.waitpid(between, 0)


def _process_descriptor(python: int) -> int | None:
    # `os.pidfd_open` is missing if Python was built with the headers of a kernel before 5.3, as in older builds of
    # conda and uv.
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        # It fails on a kernel before 5.3, and in a container that forbids unknown system calls.
        with contextlib.suppress(OSError):
            return os.pidfd_open(python)
    return None
