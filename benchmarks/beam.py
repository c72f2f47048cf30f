"""Measure the BEAM as a peer: Elixir on a pipe, which times ``binary_to_term`` and ``term_to_binary`` itself.

There are two measurements, because a BEAM process pays for garbage only when it collects:

* ``steady``: a process that lives as long as the benchmark. Its garbage collections are part of the measured time. So
  are Python's: the result of an operation is freed before the next operation.
* ``fresh``: a new process for each batch, with an empty heap. A large term is decoded without a garbage collection,
  but in memory that is new to the process: the system must first provide the pages for large results.

For small terms both measurements agree, since a batch holds many of them.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.timing import Batch
from erlport_bridge.term import Atom, decode, encode

_SCRIPT = Path(__file__).with_suffix(".exs")
# Without these flags, idle schedulers busy-wait, and take a core while the Python peers run. `-noinput`: the script
# reads the pipe itself.
_FLAGS = "-noinput +sbwt none +sbwtdcpu none +sbwtdio none"


class Beam:
    """A BEAM that keeps terms by name; a context manager that ends the BEAM."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["elixir", "--erl", _FLAGS, str(_SCRIPT)],  # noqa: S607  # the one on the path is the one to compare with
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Beam:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()

    def load(self, name: str, data: bytes) -> bytes:
        """Make the BEAM keep the term of ``data``; return the term's bytes as its ``term_to_binary`` writes them."""
        own: str | bytes = self._ask((Atom("load"), name, data))
        return own.encode() if isinstance(own, str) else own

    def batch(self, name: str, operation: str, process: str) -> Batch:
        """Return a timed batch of ``decode`` or ``encode`` on a term, in a ``steady`` or ``fresh`` process."""

        def run(count: int) -> float:
            nanoseconds: int = self._ask((Atom("time"), name, Atom(operation), count, Atom(process)))
            return nanoseconds / 1e9

        return run

    def _ask(self, question: tuple[Any, ...]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(encode(question, packet=4))
        self._process.stdin.flush()
        (size,) = struct.unpack(">I", self._process.stdout.read(4))
        return decode(self._process.stdout.read(size))
