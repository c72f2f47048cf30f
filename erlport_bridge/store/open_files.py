"""Notice that the files of an open SQLite database were removed or replaced, such as by a program that cleans ``/tmp``.

SQLite goes on with the files that it has open: what is written is stored nowhere, and another process does not see it.
"""

from __future__ import annotations

import os
import time
from typing import Final

# Reads check no more often. A check takes some microseconds.
_INTERVAL_S: Final = 1.0


class OpenFiles:
    """The files that an open database has at the moment: its own one, and its write-ahead log.

    Args:
        path: The path of the database.
    """

    def __init__(self, path: str) -> None:
        paths = (path, f"{path}-wal")
        self._identities = {path: identity for path in paths if (identity := _identity(path)) is not None}
        self._checked_at = time.monotonic()

    def are_there(self, *, now: bool) -> bool:
        """Return whether each path still names the same file; without ``now`` only if a second has passed."""
        clock = time.monotonic()
        if not now and clock - self._checked_at < _INTERVAL_S:
            return True
        if all(_identity(path) == identity for path, identity in self._identities.items()):
            self._checked_at = clock
            return True
        # Until they are there again, each read checks.
        self._checked_at = -_INTERVAL_S
        return False


def _identity(path: str) -> tuple[int, int] | None:
    """Return what identifies a file while it is open; ``None`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
