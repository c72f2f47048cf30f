"""End the process of a port: at once, since nobody can read an answer any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

_before_exit: list[Callable[[], object]] = []


def before_exit(function: Callable[[], object]) -> None:
    """Call ``function()`` when the process leaves because the port is closed.

    It must be quick and must not raise: nobody waits, and what it does not end (a child process) stays.
    """
    _before_exit.append(function)


def leave(status: int) -> NoReturn:
    """End the process now.

    A normal exit would wait for threads that may sit in a language model's call for minutes, and nobody can read an
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
