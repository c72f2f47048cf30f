"""Move the protocol's file descriptors out of the reach of other code.

After :func:`take_descriptors` the descriptors 0 to 4 do not lead to the protocol. A ``print``, a C library or a child
process that writes to descriptor 1 writes to stderr, and a read of descriptor 0 finds its end. The protocol's own
descriptors have high numbers and are closed in child processes.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from typing import NamedTuple

from erlport_bridge.errors import ProtocolError
from erlport_bridge.redaction import RedactedStream

# Above every descriptor that a program uses by convention.
_FIRST_PRIVATE_DESCRIPTOR = 64
# Room for the private descriptors, DSPy's files, and some connections to a provider.
_LEAST_LIMIT = 128


class Descriptors(NamedTuple):
    """The file descriptors that this process reads the protocol from and writes it to."""

    read: int
    write: int


def take_descriptors(*, use_stdio: bool) -> Descriptors:
    """Move the protocol's descriptors to high numbers; point 0 at the null device and 1 at stderr.

    Args:
        use_stdio: The port uses descriptors 0 and 1 (``use_stdio``, ErlPort's default) rather than 3 and 4.

    Raises:
        ProtocolError: The descriptors are not open, or lead to a terminal: no port has started this process. Or the
            process may open too few files.
    """
    _ensure_room()
    sources = (0, 1) if use_stdio else (3, 4)
    for source in sources:
        try:
            os.fstat(source)
        except OSError:
            raise ProtocolError(
                f"descriptor {source} is not open; this program is started by a port, not by hand"
            ) from None
        if os.isatty(source):
            raise ProtocolError(f"descriptor {source} is a terminal; this program is started by a port, not by hand")
    read, write = (fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE_DESCRIPTOR) for source in sources)
    if not use_stdio:
        os.close(3)
        os.close(4)
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.fstat(2)
    except OSError:
        os.dup2(nowhere, 2)
    # This process must not read the terminal of IEx. What it prints belongs next to the log, on stderr.
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    if nowhere > 2:
        os.close(nowhere)
    # New objects: the old sys.stdout remembers which kind of file descriptor 1 was.
    sys.stdout = RedactedStream(1)
    sys.stderr = RedactedStream(2)
    return Descriptors(read, write)


def _ensure_room() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _LEAST_LIMIT:
        return
    if hard == resource.RLIM_INFINITY or hard >= _LEAST_LIMIT:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_LIMIT, hard))
        return
    raise ProtocolError(
        f"this process may open {hard} files, and needs {_LEAST_LIMIT}; raise the limit with `ulimit -n` where "
        "the BEAM is started"
    )
