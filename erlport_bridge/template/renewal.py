"""Make anew, in a forked worker, what it must not share with the template process and its other workers.

The template process has no thread, no event loop, no socket but those listed here, and has made no request. So most of
what a process must not inherit does not exist yet when a worker is forked; the worker makes it, as a directly started
Python does: threads, the event loop, the lock of each of them, HTTP clients, sandboxes, sessions.

==========================  ==========================================  ===============================================
what                        why                                         how
==========================  ==========================================  ===============================================
descriptors of the          another worker's port would stay open, and  closed; each by its object, so that none closes
template: port, socket,     the template's socket busy                  the number again later
connections
descriptors 0 to 4          are those of the template                   replaced by those of the launcher
files open for reading      share their position                        opened again, at the same position
session, process group,     the end of one worker would end others      ``setsid``
terminal
``random``                  equal numbers in every worker               Python itself seeds it after a fork
ids of spans            would be equal                              seeded after a fork by their module
numpy's global numbers      the same                                    seeded, if numpy is loaded
``tempfile``                equal names                                 Python itself compares the process id
``uuid``, ``secrets``       would be equal if they kept a state         nothing: they ask the system each time
ids of sessions, programs,  the same                                    nothing: they come from ``secrets``
streams
ids of calls to Elixir      belong to one port                          nothing: each port counts from 0
locks of ``logging`` and    a thread that is gone may hold one          Python itself makes them anew; there is one
``threading``                                                           thread, which holds none
counters of calls           are those of the template, since its start  made anew (``counting/counters.py``)
log entries                 would be sent once by each worker           sent by the template before it forks
``sys.argv``                is that of the template                     the flags that the launcher got
``sys.stdout``,             lead to the log of the template             made anew here, and again when the worker has a
``sys.stderr``                                                          log
address of the store        stands in the environment, which is         nothing: the first to import the operations has
                            compared                                    taken it out of ``os.environ``
store: connections,         would mix the answers of two processes      nothing: none is there before the first call
threads
store: id of the owner      would let two workers write to one          compared with the process id
of conversations            conversation
functions of ``atexit``     remove files of all workers                 never run: a worker ends by ``os._exit``
DSPy's cache                                                            empty and without a file until the first call
garbage collector           a collection would copy what is shared      on, with the usual thresholds; what the template
                                                                        has imported stays frozen
environment, folder,        must be those of the launcher               compared: a template whose own differ forks
                                                                        nothing, see ``launches.py``
limits, niceness, umask,    must be those of the launcher               inherited from the BEAM by both
signal masks, actions
==========================  ==========================================  ===============================================

What stays shared: the seed of ``hash()`` for text, which is chosen when Python starts (in Rust and C libraries too),
and the random text in the markers of content parts, which never leaves the process. It differs between templates.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from erlport_bridge.redaction import RedactedStream
from erlport_bridge.template.imports import descriptors, is_read_only_file

#: The descriptors of standard input, output and error, and of the port.
PLACES: Final = range(5)
# From where on the port's descriptors stand while their places are filled. Not higher: the process may open few files.
_ABOVE_PLACES: Final = len(PLACES)


def renew(flags: Sequence[str], port: Mapping[int, int]) -> None:
    """Make this process, which has just been forked, a process of its own.

    Args:
        flags: The flags of the worker, for ``sys.argv``.
        port: The descriptors that the launcher has sent, by the places where they belong.
    """
    os.setsid()
    _take_places(port)
    _open_again()
    if (numpy := sys.modules.get("numpy")) is not None and "numpy.random" in sys.modules:
        numpy.random.seed()
    sys.argv[1:] = flags
    sys.stdout, sys.stderr = RedactedStream(1), RedactedStream(2)
    gc.enable()


def _take_places(port: Mapping[int, int]) -> None:
    """Put the launcher's descriptors at their places; a place for which it has sent none is closed."""
    # Each may have the number of another's place.
    moved = {place: fcntl.fcntl(port[place], fcntl.F_DUPFD_CLOEXEC, _ABOVE_PLACES) for place in port}
    for descriptor in {*PLACES, *port.values()}:
        with contextlib.suppress(OSError):  # it was not open
            os.close(descriptor)
    for place, descriptor in moved.items():
        os.dup2(descriptor, place)
        os.close(descriptor)


def _open_again() -> None:
    """Open each file again that is read: processes that share a descriptor share its position."""
    for descriptor in descriptors() - set(PLACES):
        if is_read_only_file(descriptor):
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
            os.lseek(again, os.lseek(descriptor, 0, os.SEEK_CUR), os.SEEK_SET)
            is_inherited = not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            os.dup2(again, descriptor, inheritable=is_inherited)
            os.close(again)
