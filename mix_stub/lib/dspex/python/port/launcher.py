"""Request a worker from the pool's template process, and watch it; the program of the worker's port.

Usage: ``python -I -S -c CODE SOCKET TIMEOUT_MS COMMAND...``. COMMAND starts the worker without a template. This program
becomes it if the template does not fork within the time, refuses, stays stopped, or is not there. Otherwise this
process gives the port to the worker and stays: it is what the BEAM sees of the worker. It ends with the worker's exit
status, and kills the worker's process group when the BEAM closes the port. When this process is killed, the template
process kills the worker. ``erlport_bridge/template/`` has the other side, and ``erlport_bridge/port/watching.py`` is
the same for a worker that was started directly.

Only modules without any of their own are imported, because each worker waits for this start.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import marshal
import posix
import select
import sys
import time

# The status of a worker that has ended after its template process, so that nobody was told of its status.
UNKNOWN = 125
# How this process is called, for those who look for its worker (`interpreter.ex`).
NAME = b"dspex-launcher"
# How long Python has to exit by itself when the port is closed.
GRACE_MS = 400
# How long the template process may take to report a status, if it is there at all.
REPORT_MS = 400
# The interval at which to look for a template process that has just been started.
LOOK_MS = 2
# After how long a template process that is stopped (SIGSTOP, a debugger) is killed, so that the pool starts another
# one. One that is not stopped imports, or forks for others, and is waited for.
MOST_STOPPED_MS = 2_000
LOOK_STOPPED_MS = 100

PORT_READ = 3
PORT_WRITE = 4
PLACES = range(5)

_port = select.poll()
# No event is asked for, so poll reports only the hang-up, even while unread requests are in the pipe.
_port.register(PORT_READ, 0)


def main(path: str, timeout_ms: int, command: list[str]) -> None:
    """Become the worker, or watch the one that the template process at ``path`` has forked."""
    ends_at = time.monotonic() + timeout_ms / 1000
    try:
        connection = connect(path, ends_at)
        forked = ask(connection, command, ends_at) if connection else None
    except OSError:
        # The template process has ended.
        connection = forked = None
    if connection and forked:
        watch(connection, *forked)
    variables = dict(entry.split(b"=", 1) for entry in environment().split(b"\0") if b"=" in entry)
    posix.execve(command[0], command, variables)  # closes the connection


def environment() -> bytes:
    """Return the environment with which this process was started."""
    # Not `posix.environ`, to which Python adds a variable for its locale.
    descriptor = posix.open("/proc/self/environ", posix.O_RDONLY | posix.O_CLOEXEC)
    parts: list[bytes] = []
    while not parts or parts[-1]:
        parts.append(posix.read(descriptor, 1 << 16))
    posix.close(descriptor)
    return b"".join(parts)


def connect(path: str, ends_at: float) -> _socket.socket | None:
    """Return a connection to the template process; None if there is none and will be none."""
    folder = path.rpartition("/")[0]
    while time.monotonic() < ends_at:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.settimeout(max(ends_at - time.monotonic(), 0.001))
        try:
            connection.connect(path)
            return connection
        except FileNotFoundError:
            connection.close()
        try:
            posix.stat(folder)
        except FileNotFoundError:
            return None
        if _port.poll(LOOK_MS):
            posix._exit(0)
    return None


def ask(connection: _socket.socket, command: list[str], ends_at: float) -> tuple[int, int] | None:
    """Ask the template process for a worker; return the worker's process id and pidfd, or None."""
    unconfirmed, confirming = posix.pipe()
    places = [place for place in PLACES if is_open(place)]
    data = marshal.dumps((command, environment(), posix.getcwd(), places))
    data = len(data).to_bytes(4, "big") + data
    rights = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in [unconfirmed, *places])
    connection.setblocking(False)
    sent = connection.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    posix.close(unconfirmed)
    if has_answer(connection, data[sent:], ends_at):
        answer, ancillary, _flags, _address = connection.recvmsg(1 << 12, _socket.CMSG_SPACE(4))
        if answer[:1] == b"F" and ancillary:
            # Until it is confirmed, the worker does not read from the port.
            posix.write(confirming, b"!")
            posix.close(confirming)
            return int.from_bytes(answer[1:5], "big"), int.from_bytes(ancillary[0][2], sys.byteorder)
    # A worker that is forked nevertheless reads the end of this pipe, and leaves.
    posix.close(confirming)
    return None


def has_answer(connection: _socket.socket, unsent: bytes, ends_at: float) -> bool:
    """Send the rest of the request, and wait for the answer; kill a template process that stays stopped meanwhile."""
    poller = select.poll()
    poller.register(PORT_READ, 0)
    stopped_at = None
    while (now := time.monotonic()) < ends_at:
        poller.register(connection, select.POLLIN | (select.POLLOUT if unsent else 0))
        ready = dict(poller.poll(min(LOOK_STOPPED_MS, max(int((ends_at - now) * 1000), 1))))
        if PORT_READ in ready:
            posix._exit(0)
        if ready.get(connection.fileno(), 0) & ~select.POLLOUT:
            return True
        if ready:
            unsent = unsent[connection.send(unsent) :]
        elif not is_stopped(template := template_of(connection)):
            stopped_at = None
        elif stopped_at is None:
            stopped_at = now
        elif now - stopped_at > MOST_STOPPED_MS / 1000:
            posix.write(2, b"erlport_bridge: the template process of the pool was stopped, and is killed\n")
            # Its socket is open, so its number belongs to no other process.
            posix.kill(template, _signal.SIGKILL)
            return False
    return False


def template_of(connection: _socket.socket) -> int:
    """Return the process id of the template process."""
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)


def is_stopped(process: int) -> bool:
    """Return whether a process is stopped, by a signal or by a debugger."""
    stat = posix.open(f"/proc/{process}/stat", posix.O_RDONLY | posix.O_CLOEXEC)
    state = posix.read(stat, 1 << 12).rpartition(b")")[2].split()[0]
    posix.close(stat)
    return state in (b"T", b"t")


def is_open(descriptor: int) -> bool:
    """Return whether a descriptor is open."""
    try:
        posix.fstat(descriptor)
    except OSError:
        return False
    return True


def watch(connection: _socket.socket, worker: int, pidfd: int) -> None:
    """Wait for the end of the worker or of its port, and end both; leave with the worker's status."""
    rename()
    # If this process kept this end of the port open, the BEAM would not notice the worker's end.
    posix.close(PORT_WRITE)
    poller = select.poll()
    poller.register(PORT_READ, 0)
    poller.register(pidfd, select.POLLIN)
    if pidfd not in dict(poller.poll()):
        poller.unregister(PORT_READ)
        poller.poll(GRACE_MS)
    kill_group(worker)
    # A worker that had not ended yet ends now.
    poller.poll(REPORT_MS)
    posix._exit(status(connection))


def rename() -> None:
    """Set the name that the system shows for this process."""
    try:
        name = posix.open("/proc/self/comm", posix.O_WRONLY | posix.O_CLOEXEC)
        posix.write(name, NAME)
        posix.close(name)
    except OSError:
        pass


def kill_group(worker: int) -> None:
    """Kill the worker and its child processes."""
    # While the connection is open, the template process does not wait for the worker, whose number stays its own.
    for kill in (posix.killpg, posix.kill):
        try:
            kill(worker, _signal.SIGKILL)
        except ProcessLookupError:
            pass


def status(connection: _socket.socket) -> int:
    """Return the exit status of the worker, as a shell writes it."""
    connection.settimeout(REPORT_MS / 1000)
    try:
        report = connection.recv(4)
    except OSError:
        report = b""
    if len(report) < 4:
        return UNKNOWN
    ended = int.from_bytes(report, "big")
    return ended >> 8 if ended >= 256 else 128 + ended if ended else 0


if __name__ == "__main__":
    # Ctrl-C in IEx is meant for IEx.
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
