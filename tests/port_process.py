"""Drive a real process of the bridge on real pipes, as the Erlang side of a port does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

from erlport_bridge.port.frames import FrameReader, SkippedFrame
from erlport_bridge.term import Atom, decode, encode

Process = TypeVar("Process", bound="PortProcess")

# Runs a program with two given descriptors as 3 and 4, which `subprocess` cannot do. It moves them to high numbers
# first, because each may be the other's target.
_ON_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 100) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
    os.close(end)
os.execv(sys.argv[3], sys.argv[3:])
"""


def _store_of_tests() -> dict[str, str]:
    """Return the variables of a port with a store of its own, if the tests are run with one."""
    if "TEST_WITH_STORE" not in os.environ:
        return {}
    return {"DSPEX_STORE": f"sqlite:///{tempfile.mkdtemp(prefix='dspex-test-')}/dspex.db"}


class PortProcess:
    """The Erlang side of one port.

    Args:
        flags: Flags besides ``--packet``; ``--use_stdio`` selects the descriptors 0 and 1.
        packet: Size of a frame's length prefix, in bytes.
        environment: Variables added to this process's environment.
        command: The program, with what stands before its flags; ``python -m erlport_bridge`` by default.
        stderr: The descriptor of its stderr; by default a file, which is never full, for :meth:`stderr_text`.
    """

    def __init__(
        self,
        flags: Sequence[str] = (),
        *,
        packet: int = 4,
        environment: dict[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "erlport_bridge"),
        stderr: int | None = None,
    ) -> None:
        environment = {**_store_of_tests(), **(environment or {})}
        self._packet = packet
        self._frames = FrameReader(packet)
        self._received: list[Any] = []
        self._next_id = 0
        self._unanswered: set[int] = set()
        use_stdio = "--use_stdio" in flags
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the port
        child_read, self.write_end = os.pipe()
        self.read_end, child_write = os.pipe()
        command = [*command, f"--packet={packet}", *flags]
        if not use_stdio:
            command = [sys.executable, "-c", _ON_3_AND_4, str(child_read), str(child_write), *command, "--nouse_stdio"]
        self.process = subprocess.Popen(
            command,
            stdin=child_read if use_stdio else subprocess.DEVNULL,
            stdout=child_write if use_stdio else subprocess.DEVNULL,
            stderr=self._stderr if stderr is None else stderr,
            pass_fds=() if use_stdio else (child_read, child_write),
            env={**os.environ, **environment},
        )
        os.close(child_read)
        os.close(child_write)

    def __enter__(self: Process) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        os.close(self.read_end)
        self.process.kill()
        self.process.wait()
        self._stderr.close()

    def close(self) -> None:
        """Close this side's writing end, as the BEAM does when it ends."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def stderr_text(self) -> str:
        """Wait for the end of the process, and return all that it wrote to stderr."""
        self.process.wait()
        return self.stderr_until_now()

    def stderr_until_now(self) -> str:
        """Return what the process has written to stderr."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0).decode()

    def send_bytes(self, data: bytes) -> None:
        """Write bytes as they are."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_end, view) :]

    def send_message(self, message: bytes) -> None:
        """Write one frame."""
        self.send_bytes(len(message).to_bytes(self._packet, "big") + message)

    def send_call(self, module: str, function: str, arguments: Sequence[Any]) -> int:
        """Send a call, and return its id."""
        self._next_id += 1
        self._unanswered.add(self._next_id)
        self.send_message(encode((Atom("C"), self._next_id, Atom(module), Atom(function), list(arguments))))
        return self._next_id

    def send_calls(self, calls: Sequence[tuple[str, str, Sequence[Any]]]) -> range:
        """Send several calls in one write, and return their ids."""
        ids = range(self._next_id + 1, self._next_id + len(calls) + 1)
        self._next_id += len(calls)
        self._unanswered.update(ids)
        frames = [
            encode((Atom("C"), call_id, Atom(module), Atom(function), list(arguments)), packet=self._packet)
            for call_id, (module, function, arguments) in zip(ids, calls, strict=True)
        ]
        self.send_bytes(b"".join(frames))
        return ids

    def receive(self) -> Any:
        """Wait for the next message of the process, and return it."""
        while not self._received:
            size = os.readv(self.read_end, [self._frames.room()])
            if not size:
                raise EOFError(f"the process has closed the port: {self.stderr_text()}")
            self._frames.received(size)
            while (frame := self._frames.take()) is not None:
                assert not isinstance(frame, SkippedFrame)
                self._received.append(decode(frame))
        message = self._received.pop(0)
        if message[0] in ("r", "e"):
            self._unanswered.discard(message[1])
        return message

    def settle(self) -> None:
        """Wait for the answers of all calls; a later call may have been answered before an earlier one."""
        while self._unanswered:
            assert self.receive()[0] == "r"

    def call(self, module: str, function: str, *arguments: Any) -> Any:
        """Call a function and return the whole answer message, ``{r, Id, Result}`` or ``{e, Id, Reason}``."""
        call_id = self.send_call(module, function, arguments)
        answer = self.receive()
        assert answer[1] == call_id, answer
        return answer

    def operate(self, operation: str, *arguments: Any) -> Any:
        """Call an operation of ``dspy_bridge`` and return its result, ``{ok, term}`` or ``{error, …}``."""
        tag, _, result = self.call("dspy_bridge", operation, *arguments)
        assert tag == "r", result
        return result

    def done(self, operation: str, *arguments: Any) -> Any:
        """Call an operation that must succeed, and return its term."""
        status, result = self.operate(operation, *arguments)
        assert status == "ok", result
        return result

    def failed(self, operation: str, *arguments: Any) -> dict[str, Any]:
        """Call an operation that must fail, and return the details map."""
        status, result = self.operate(operation, *arguments)
        assert status == "error", result
        exception, details = result
        assert exception == "python_exception"
        assert isinstance(details, dict)
        return details
