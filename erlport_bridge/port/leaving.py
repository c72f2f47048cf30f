"""End the process of a port at once, because nobody can read an answer any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

_before_exit: list[Callable[[], object]] = []


def before_exit(function: Callable[[], object]) -> None:
    """Register ``function`` to be called without arguments when the process exits because the port is closed.

    It must be quick and must not raise. A child process that it does not end may stay.
    """
    # A forked worker has the functions of its template process already.
    if function not in _before_exit:
        _before_exit.append(function)


def leave(status: int) -> NoReturn:
    """Call the functions of :func:`before_exit`, and end the process without waiting for its threads.

    A normal exit would wait for threads that may block in a language model call for minutes, and nobody can read an
    answer any more.
    """
    try:
        for function in _before_exit:
            function()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def report(text: str) -> None:
    """Write a line about the port itself to stderr."""
    sys.stderr.write(f"erlport_bridge: {text}\n")
