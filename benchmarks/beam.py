"""The BEAM as a peer: one Elixir process on a pipe, which times ``binary_to_term`` and ``term_to_binary`` itself.

Two ways, because a BEAM process pays for its garbage only when it collects:

* ``steady``: a process that lives as long as the benchmark and collects when it has to, inside the time that is
  measured. Python's times hold the same: what an operation made is freed before the next one.
* ``fresh``: a new process for each batch, with an empty heap. A large term is then decoded without any collection,
  but its memory is new to the process, and large results are written to pages that the system must first provide.

For small terms both are the same, since a batch holds many of them.
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
# Schedulers that have nothing to do would spin, and take a core from the Python peers' turns. `-noinput`: the pipe
# belongs to the script.
_FLAGS = "-noinput +sbwt none +sbwtdcpu none +sbwtdio none"


class Beam:
    """A BEAM that keeps terms by name; a context manager, which ends it."""

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
        """Have the BEAM keep the term of ``data``; give what its ``term_to_binary`` makes of it."""
        own: str | bytes = self._ask((Atom("load"), name, data))
        return own.encode() if isinstance(own, str) else own

    def batch(self, name: str, operation: str, process: str) -> Batch:
        """Give the timed repetition of ``decode`` or ``encode`` on a term in a ``steady`` or ``fresh`` process."""

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
