"""Import hundreds of modules in less time, with less garbage collection.

The objects of an import stay as long as the process lives: classes, functions, constants. The garbage collector still
looks at each of them three times during the import, a twelfth of the time that importing DSPy takes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from erlport_bridge.port.leaving import leave

# New objects per collection of the youngest generation. Without any collection, a megabyte in cycles would stay.
_NEW_OBJECTS: Final = 2_000
_NEVER: Final = 1_000_000


@contextlib.contextmanager
def bulk_import() -> Iterator[None]:
    """Import with rare garbage collections, and freeze the objects that exist afterwards (``gc.freeze``).

    Use this once, before the process does anything else: a frozen object that later becomes part of a garbage cycle is
    never freed.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, _NEVER, _NEVER)
    try:
        yield
        gc.freeze()
    finally:
        gc.set_threshold(*thresholds)


def preload(names: Sequence[str], imported: Callable[[str], object] = lambda name: None) -> None:
    """Import modules, and call ``imported`` with the name of each; end the process if one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a module of the application raises, its name must be said
            sys.stderr.write(f"erlport_bridge: cannot preload {name!r}: {type(error).__name__}: {error}\n")
            leave(1)
        imported(name)


def preload_if_possible(name: str, imported: Callable[[str], object] = lambda name: None) -> None:
    """Import a module; an exception is left to its first call, which imports the module again."""
    with contextlib.suppress(BaseException):
        importlib.import_module(name)
        imported(name)
