"""Imports hundreds of modules in less time.

What an import makes stays for as long as the process lives: classes, functions, constants. Python's collector looks at
each of them three times on the way all the same, which is a twelfth of the time that DSPy takes to be imported.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

# A collection for so many new objects, of these alone. With none, a megabyte that only cycles refer to would stay.
_NEW_OBJECTS: Final = 2_000
_NEVER: Final = 1_000_000


@contextlib.contextmanager
def bulk_import() -> Iterator[None]:
    """Import with a collector that comes seldom, and never looks at what is there afterwards.

    To be used once, before the process does anything else: an object of now that is garbage later, as part of a cycle,
    stays for ever.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, _NEVER, _NEVER)
    try:
        yield
        gc.freeze()
    finally:
        gc.set_threshold(*thresholds)
