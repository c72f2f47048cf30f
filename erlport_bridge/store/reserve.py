"""Keep some room on the disk for what deletes rows of a SQLite file, so that a full disk refuses no deletion.

SQLite writes also what it deletes to its write-ahead log first, and what is in the log to the file, which grows by
that. On a full disk neither goes on. So a file beside the database holds room, which is given away when a deletion
finds the disk full, and taken again afterwards.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

#: How much is kept. The file must be able to grow by what is in the log: see ``LOG_PAGES``.
_KEPT_BYTES: Final = 4 * 2**20
#: After so many pages of 4 KiB the log is written to the file. When the disk has no room for that, the log takes at
#: most as much again.
LOG_PAGES: Final = 250
# What a deletion leaves to others, of a disk that is still full.
_LEFT_BYTES: Final = 2**19
_LEAST_BYTES: Final = 2**20
# Of a disk that has less room nothing is kept at first.
_ROOMY: Final = 4 * _KEPT_BYTES


class Reserve:
    """The room that is kept for a database.

    Args:
        path: The path of the database.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}-reserve"
        self._folder = os.path.dirname(path) or "."

    def make(self) -> None:
        """Keep room, if there is none yet and the disk has plenty."""
        if self._held() < _KEPT_BYTES and self._free() >= _ROOMY:
            self._hold(_KEPT_BYTES)

    def give(self) -> None:
        """Release the reserved room."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def take(self) -> None:
        """Keep room again, as much as there is, but for a little."""
        size = min(_KEPT_BYTES, self._free() + self._held() - _LEFT_BYTES)
        if size >= _LEAST_BYTES and self._held() < size:
            self._hold(size)

    def _hold(self, size: int) -> None:
        try:
            with open(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:  # macOS
                    file.write(bytes(size))
        except OSError:
            self.give()

    def _held(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def _free(self) -> int:
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
