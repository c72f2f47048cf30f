"""Takes the protocol's descriptors out of everybody else's reach.

After :func:`take_descriptors` the numbers 0 to 4 lead nowhere near the protocol: a ``print``, a C library or a child
process that writes to descriptor 1 reaches stderr, and one that reads descriptor 0 finds its end. The protocol's own
descriptors have high numbers and are closed in child processes.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import NamedTuple

from erlport_bridge.errors import ProtocolError
from erlport_bridge.redaction import RedactedStream

# Above every number that a program uses by convention.
_FIRST_PRIVATE_DESCRIPTOR = 64


class Descriptors(NamedTuple):
    """The two ends of the protocol in this process."""

    read: int
    write: int


def take_descriptors(*, use_stdio: bool) -> Descriptors:
    """Move the protocol's descriptors away and point 0 and 1 at harmless places.

    Args:
        use_stdio: The other side speaks over 0 and 1 (``use_stdio``, ErlPort's default) rather than over 3 and 4.

    Raises:
        ProtocolError: The descriptors are not open, or lead to a terminal: no port has started this process.
    """
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
    # The terminal of IEx is not ours to read, and what is printed belongs beside the log.
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    if nowhere > 2:
        os.close(nowhere)
    # New objects: the old one remembers of what kind the file was that descriptor 1 led to.
    sys.stdout = RedactedStream(1)
    sys.stderr = RedactedStream(2)
    return Descriptors(read, write)
