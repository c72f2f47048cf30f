"""Keep what the garbage collector finalizes away from the context variables of the code that it interrupts.

Before Python 3.12 the collector may run wherever an object is created, also within ``ContextVar.set``. A generator that
it closes may leave a ``with`` block that sets a variable too. In the same context that frees the mapping which the
first ``set`` is reading, and the process ends with a segmentation fault. From Python 3.12 on the collector waits until
the thread is between two instructions.
"""

from __future__ import annotations

import gc
import sys

from erlport_bridge.port.implementation import native

#: Whether this Python needs it.
IS_NEEDED = sys.version_info < (3, 12)


def isolate() -> None:
    """Run what garbage collections finalize in a context of its own, where that is needed and the port is compiled."""
    if IS_NEEDED and native is not None and native.isolate_finalizers not in gc.callbacks:
        gc.callbacks.append(native.isolate_finalizers)
