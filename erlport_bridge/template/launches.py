"""Speak with the launcher of one worker over its connection to the template process.

The launcher (``mix_stub/lib/dspex/python/port/launcher.py``) is the program of the worker's port. It sends one request:
its length in 4 bytes, then a marshalled tuple of the worker's command, environment and folder, the places of the
descriptors that it sends along, and these descriptors. The first of them is the end of a pipe, see
:meth:`Launch.is_confirmed`. The answer is ``F`` with the worker's process id in 4 bytes and a pidfd, and after the
worker's end 4 bytes with the status of ``waitpid``; or ``N`` with the reason why there is no worker.

The launcher closes the connection when it does not want the worker any more, or when it ends.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import marshal
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from erlport_bridge.template.renewal import PLACES

# A pipe's end, and the descriptors of the port.
_MAX_SENT: Final = 1 + len(PLACES)
_LENGTH: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("iII")
_PIDFD_OPEN: Final = 434  # on every processor


class Request(NamedTuple):
    """What a launcher asks for."""

    command: list[str]
    start: Start


class Start(NamedTuple):
    """With what a process was started; what it imports may depend on it."""

    environment: frozenset[bytes]
    folder: str

    @classmethod
    def of_this_process(cls) -> Start:
        """Return with what this process was started, and where it is now."""
        # Not `os.environ`: imported modules may have changed it, which holds for a forked worker too.
        environment = Path("/proc/self/environ").read_bytes()
        return cls(frozenset(environment.split(b"\0")), os.getcwd())


class Launch:
    """A connection with a launcher, from its request until it closes the connection.

    Attributes:
        connection: The connection.
        launcher: The process id of the launcher.
        worker: The process id of its worker, once it has one.
        pidfd: The worker's process, until it has ended.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.launcher, user, _group = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user != os.getuid():
            connection.close()
            raise PermissionError(f"the process {self.launcher} of another user wants a worker")
        connection.setblocking(False)
        self.worker: int | None = None
        self.pidfd: int | None = None
        self.sent: list[int] = []
        self._places: list[int] = []
        self._received = bytearray()

    def receive(self) -> Request | None:
        """Receive a part of the request; return the request when it is complete.

        Raises:
            EOFError: The launcher has closed the connection, or this process has no room for what it sends along.
        """
        try:
            data, ancillary, flags, _address = self.connection.recvmsg(1 << 16, socket.CMSG_SPACE(_MAX_SENT * 4))
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self.sent += numbers
        if not data or flags & socket.MSG_CTRUNC:
            raise EOFError
        self._received += data
        if len(self._received) < _LENGTH.size:
            return None
        if len(self._received) < _LENGTH.size + _LENGTH.unpack_from(self._received)[0]:
            return None
        command, environment, folder, self._places = marshal.loads(bytes(self._received[_LENGTH.size :]))  # noqa: S302
        self._received.clear()
        words = [os.fsdecode(word) for word in command]
        return Request(words, Start(frozenset(environment.split(b"\0")), os.fsdecode(folder)))

    def taken_port(self) -> dict[int, int]:
        """Return the descriptors that the launcher has sent, by the places where they belong; they are the caller's."""
        os.close(self.sent[0])
        port = dict(zip(self._places, self.sent[1:], strict=True))
        self.sent = []
        return port

    def is_confirmed(self) -> bool:
        """Wait in the worker until the launcher knows of it, and return ``False`` if it will not.

        Without this, the port would have two readers when the template process ends just after the fork, or answers so
        late that the launcher has started Python itself.
        """
        return bool(os.read(self.sent[0], 1))

    def begin(self, worker: int) -> None:
        """Send the launcher its worker; close here what it has sent for it.

        Raises:
            OSError: There is no descriptor of the worker, or the launcher is gone.
        """
        self.worker = worker
        self.drop_sent()
        self.pidfd = pidfd_of(worker)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", self.pidfd))]
        self.connection.sendmsg([b"F" + _LENGTH.pack(worker)], rights)

    def refuse(self, reason: str) -> None:
        """Send the launcher the reason why it has no worker."""
        with contextlib.suppress(OSError):
            self.connection.send(b"N" + reason.encode())

    def report_end(self) -> None:
        """Send the launcher the exit status of its worker. The worker keeps its id until :meth:`end`."""
        if self.worker is None:
            return
        ended = os.waitid(os.P_PID, self.worker, os.WEXITED | os.WNOWAIT)
        self._close_pidfd()
        if ended is not None:
            is_exit = ended.si_code == os.CLD_EXITED
            with contextlib.suppress(OSError):
                self.connection.send(_LENGTH.pack(ended.si_status << 8 if is_exit else ended.si_status))

    def end(self) -> None:
        """Kill what is left of the worker and its child processes, and forget both."""
        self.connection.close()
        self.drop_sent()
        self._close_pidfd()
        if self.worker is not None:
            # Its number is not used again as long as nobody has waited for it.
            kill_group(self.worker)
            os.waitpid(self.worker, 0)

    def close(self) -> None:
        """Close the connection, and the descriptor of the worker, in a process that has just been forked."""
        self.connection.close()
        self._close_pidfd()

    def drop_sent(self) -> None:
        """Close the descriptors that the launcher has sent."""
        for descriptor in self.sent:
            os.close(descriptor)
        self.sent = []

    def _close_pidfd(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def kill_group(worker: int) -> None:
    """Kill a worker and its process group, if they are still there."""
    for kill in (os.killpg, os.kill):  # just after the fork, it has no group of its own yet
        with contextlib.suppress(ProcessLookupError):
            kill(worker, signal.SIGKILL)


def pidfd_of(process: int) -> int:
    """Return a descriptor of a process.

    Raises:
        OSError: The system has none.
    """
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(process)
    # Python was built with the headers of a kernel before 5.3, as in older builds of conda and uv.
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    descriptor = int(syscall(_PIDFD_OPEN, process, 0))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor
