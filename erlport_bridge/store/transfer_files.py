"""Open the files that an export of a store writes and an import reads, and refuse at once what is no regular file.

To open a named pipe waits for its other end, in a thread that cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Final

from erlport_bridge.errors import OperationError

# What there is beside regular files, by the mode; the last one fits all that is left.
_KINDS: Final[dict[str, Callable[[int], bool]]] = {
    "directory": stat.S_ISDIR,
    "named pipe": stat.S_ISFIFO,
    "socket": stat.S_ISSOCK,
    "symbolic link": stat.S_ISLNK,
    "device": lambda _mode: True,
}
_REMEDIES: Final = {
    errno.ENOENT: "check its name and its folder",
    errno.ENOTDIR: "check its folder, part of which is a file",
    errno.EACCES: "give the user of this Python the right to it and to its folder",
    errno.EROFS: "name a file on a disk that can be written",
}


@contextlib.contextmanager
def new(path: str) -> Iterator[IO[bytes]]:
    """Yield a new file, private to this user, which has its name only once all is written.

    Raises:
        OperationError: Of kind ``input``: there is something with this name already, or it cannot be written.
    """
    _check_is_new(path)
    part = f"{path}.part-{os.getpid()}"
    try:
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except OSError as error:
        raise _refused(path, "written", error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)


@contextlib.contextmanager
def existing(path: str) -> Iterator[IO[bytes]]:
    """Yield a regular file for reading.

    Raises:
        OperationError: Of kind ``input``: it is something else, or cannot be read.
    """
    try:
        # Before it is opened: a socket cannot be, and a device may do something then.
        _check_is_regular(path, os.stat(path).st_mode)
        # What has taken its place since is not waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            _check_is_regular(path, os.fstat(file.fileno()).st_mode)
            yield file
    except OSError as error:
        raise _refused(path, "read", error) from None


def _check_is_new(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # there is none, or the attempt to write it fails for the same reason
    kind = "file" if stat.S_ISREG(mode) else kind_of(mode)
    remedy = "a file in it" if kind == "directory" else "another one, so that no backup is written over"
    raise OperationError("input", f"the {kind} {path!r} exists already; name {remedy}", path="path")


def _check_is_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = kind_of(mode)
        remedy = "name a file in it" if kind == "directory" else "write what it gives to a regular file and name that"
        message = f"expected a file that export_store has written at path, got the {kind} {path!r}; {remedy}"
        raise OperationError("input", message, path="path")


def kind_of(mode: int) -> str:
    """Return the kind of a file that is not regular, such as "directory", by its mode."""
    return next(kind for kind, is_it in _KINDS.items() if is_it(mode))


def _refused(path: str, what: str, error: OSError) -> OperationError:
    remedy = _REMEDIES.get(error.errno or 0)
    message = f"the file {path!r} cannot be {what}: {error.strerror}{f'; {remedy}' if remedy else ''}"
    return OperationError("input", message, path="path")
