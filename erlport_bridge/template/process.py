"""Run the template process: import what workers need, then fork a worker for each launcher that connects.

The process has one thread, so that a fork copies no lock that another thread holds. It waits by ``poll`` for its port,
its socket, its launchers and its workers. It ends when the BEAM closes its port; its workers live on, each watched by
its launcher. When the BEAM itself has ended, it also kills workers and launchers that have not ended by themselves,
such as stopped ones.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from erlport_bridge.port.answers import AnswerEncoder
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.leaving import leave, report
from erlport_bridge.port.logs import Logs
from erlport_bridge.template.imports import Leftovers, count_further_tasks
from erlport_bridge.template.launches import Launch, Request, Start, kill_group, pidfd_of
from erlport_bridge.template.renewal import PLACES, renew

#: Status of a template process that must not be forked; another one would do no better.
UNFIT: Final = 3
#: Status of a template process that was started with another environment than its workers; a new one will do.
STALE: Final = 4

# How long workers have to end by themselves after the BEAM. Less than the time after which the lifeline ends this
# process.
_GRACE_S: Final = 0.25
_LOOK_S: Final = 0.02


class TemplateProcess:
    """A process from which workers are forked.

    Args:
        folder: A folder for the socket, of which only this user may know the content.
        descriptors: Those of the port of this process.
        serve: Serves one port in a worker, with its flags; never returns.
        logs: The log entries of this process; ``None`` if they go to stderr.
    """

    def __init__(
        self, folder: Path, descriptors: Descriptors, serve: Callable[[Sequence[str]], object], logs: Logs | None
    ) -> None:
        self._path = folder / "socket"
        self._descriptors = descriptors
        self._serve = serve
        self._logs = logs
        self._encoder = AnswerEncoder(4, 0)
        self._start = Start.of_this_process()
        _fill_places()
        self._spare = _null()
        self._parent = os.getppid()
        self._launches: list[Launch] = []
        # Launchers may connect from now on, and wait until the modules are imported.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unready = self._path.with_suffix(".new")
        self._socket.bind(str(unready))
        self._socket.listen(128)
        self._socket.setblocking(False)
        # A launcher that finds a socket on which nobody listens takes this process for dead.
        unready.rename(self._path)

    def serve(self, leftovers: Leftovers) -> NoReturn:
        """Fork workers until the port is closed."""
        self._require(leftovers.reason)
        try:
            os.close(pidfd_of(os.getpid()))
        except OSError as error:
            self._require(f"the system has no descriptors of processes: {error}")
        gc.collect()
        gc.freeze()
        while True:
            for descriptor in self._ready():
                self._handle(descriptor)

    def _ready(self) -> list[int]:
        self._send_logs()
        poller = select.poll()
        # Nothing is sent to this process: its end is all that can be read.
        poller.register(self._descriptors.read, select.POLLIN)
        poller.register(self._socket, select.POLLIN)
        for launch in self._launches:
            poller.register(launch.connection, select.POLLIN)
            if launch.pidfd is not None:
                poller.register(launch.pidfd, select.POLLIN)
        return [descriptor for descriptor, _event in poller.poll()]

    def _handle(self, descriptor: int) -> None:
        if descriptor == self._descriptors.read:
            self._leave()
        if descriptor == self._socket.fileno():
            self._accept()
        for launch in self._launches:
            # First the end of a worker: its launcher closes the connection soon after.
            if descriptor == launch.pidfd:
                launch.report_end()
                return
            if descriptor == launch.connection.fileno():
                self._receive(launch)
                return

    def _accept(self) -> None:
        try:
            self._launches.append(Launch(self._socket.accept()[0]))
        except PermissionError as error:
            report(str(error))
        except OSError as error:  # otherwise the launcher has ended already
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()

    def _turn_away(self) -> None:
        """Close the connection of a launcher, which then starts Python itself: this process can open no more files."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
        self._spare = _null()

    def _receive(self, launch: Launch) -> None:
        try:
            request = launch.receive()
        except (EOFError, ValueError, TypeError):
            # The launcher has ended, or does not want its worker any more.
            self._forget(launch)
            return
        if request is None:
            return
        if request.start != self._start:
            launch.refuse("the template process was started in another environment or folder")
            self._close(STALE)
        self._fork(launch, request)

    def _fork(self, launch: Launch, request: Request) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        try:
            self._require(_too_many_threads())
            worker = os.fork()
        except OSError as error:
            launch.refuse(f"cannot fork: {error}")
            self._forget(launch)
            return
        if not worker:
            self._become_worker(launch, request)
        try:
            launch.begin(worker)
        except OSError:
            launch.worker = worker
            self._forget(launch)

    def _become_worker(self, launch: Launch, request: Request) -> NoReturn:
        """Serve the launcher's port in this process, which has just been forked."""
        status = 1
        try:
            # The launcher must notice the end of the template process while this process waits for it.
            self._close_descriptors()
            if launch.is_confirmed():
                status = self._work(launch, request)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as a template
            traceback.print_exc()
        finally:
            leave(status)

    def _work(self, launch: Launch, request: Request) -> int:
        # The interpreter's own options end with `-c CODE` or `-m MODULE`.
        place = next(index for index, word in enumerate(request.command) if word in ("-c", "-m"))
        flags = request.command[place + 2 :]
        renew(flags, launch.taken_port())
        try:
            self._serve(flags)
        except SystemExit as exit_:
            if isinstance(exit_.code, str):
                sys.stderr.write(f"{exit_.code}\n")
                return 1
            return exit_.code or 0
        return 0

    def _close_descriptors(self) -> None:
        self._socket.close()
        for launch in self._launches:
            launch.close()
        for descriptor in (*self._descriptors, self._spare):
            os.close(descriptor)

    def _forget(self, launch: Launch) -> None:
        self._launches.remove(launch)
        launch.end()

    def _require(self, hindrance: str | None) -> None:
        """End this process if there is a reason not to fork it."""
        if hindrance is not None:
            text = f"workers are started one by one, without a template process: {hindrance}"
            if self._logs:
                self._logs.add("warning", "erlport_bridge", text)
            else:
                report(text)
            self._close(UNFIT)

    def _send_logs(self) -> None:
        if self._logs and (entries := self._logs.taken()).entries:
            for part in self._encoder.framed(entries):
                os.write(self._descriptors.write, part)

    def _close(self, status: int) -> NoReturn:
        self._send_logs()
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()
        leave(status)

    def _leave(self) -> NoReturn:
        """End this process; if the BEAM has ended too, end its workers that do not end by themselves."""
        ends_at = time.monotonic() + _GRACE_S
        while time.monotonic() < ends_at and self._launches:
            time.sleep(_LOOK_S)
            self._launches = [launch for launch in self._launches if _is_open(launch)]
        if os.getppid() != self._parent:
            for launch in self._launches:
                if launch.worker is not None:
                    kill_group(launch.worker)
                # Its connection is open, so its number belongs to no other process.
                kill_group(launch.launcher)
        self._close(0)


def run(
    folder: str,
    descriptors: Descriptors,
    preload: Callable[[Callable[[str], object]], object],
    serve: Callable[[Sequence[str]], object],
    logs: Logs | None,
) -> NoReturn:
    """Be the template process of a pool until its port is closed.

    Args:
        folder: Where to make the socket.
        descriptors: Those of the port of this process.
        preload: Imports the modules that workers need, and calls its argument with the name of each.
        serve: Serves one port in a worker, with its flags; never returns.
        logs: The log entries of this process; ``None`` if they go to stderr.
    """
    process = TemplateProcess(Path(folder), descriptors, serve, logs)
    leftovers = Leftovers()
    preload(leftovers.look)
    process.serve(leftovers)


def _fill_places() -> None:
    """Open the null device at each place of a port, so that no imported module opens a file there."""
    while (descriptor := _null()) <= max(PLACES):
        pass
    os.close(descriptor)


def _null() -> int:
    """Open the null device."""
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def _too_many_threads() -> str | None:
    further = count_further_tasks(1)
    return f"it has {further + 1} threads" if further else None


def _is_open(launch: Launch) -> bool:
    try:
        return bool(launch.connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False
