"""Start Pyodide from an image of its memory, in a tenth of the time and of the work of a start.

A start of Pyodide runs the start of Python in WebAssembly that is not compiled yet, which takes seconds of two cores.
So the memory of one that has just started is kept in a file in Deno's cache, which is made once for each version of
Pyodide, each time zone and each version of ``kit/``. Where there is none, Pyodide starts as published.

DSPy's runner is not changed: an import map puts our modules of ``kit/`` in the place of two that it imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox import deno

_log = logging.getLogger(__name__)

_KIT: Final = Path(__file__).parent / "kit"
#: DSPy's program in the sandbox.
RUNNER: Final = Path(inspect.getfile(dspy.PythonInterpreter)).with_name("runner.js")


def _imported() -> str | None:
    """Return what DSPy's runner imports from npm, with the version; ``None``: it is not where, or as, it is today."""
    try:
        found = re.search(r'"(npm:pyodide@[^"]+)"', RUNNER.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found and found[1]


_PYODIDE: Final = _imported()
# What it imports from the web.
_READ_LINES: Final = "https://deno.land/std@0.186.0/io/mod.ts"
# Where our modules find Pyodide itself.
_PUBLISHED: Final = "pyodide-as-published"

_DIGEST_BYTES: Final = 32
# One has 20 MB.
_MAX_BYTES: Final = 200_000_000
# A start as published, and one from the image.
_TIMEOUT_S: Final = 120
_LOOK_AGAIN_S: Final = 0.05
# An image of another version or time zone that no process has used for so long is removed when one is made.
_UNUSED_S: Final = 30 * 24 * 3600


def _import_map() -> str:
    imports = {_READ_LINES: (_KIT / "readlines.js").as_uri()}
    if _PYODIDE is not None:
        imports |= {_PYODIDE: (_KIT / "pyodide.js").as_uri(), _PUBLISHED: _PYODIDE}
    return f"--import-map=data:application/json,{quote(json.dumps({'imports': imports}))}"


#: The option of Deno that puts our modules in their places.
IMPORT_MAP: Final = _import_map()

# The image that this process has found to be whole.
_found: Path | None = None


def argument() -> list[str]:
    """Return the argument that names the image to DSPy's runner; none before it is found, or after :func:`forget`."""
    return [] if _found is None else [f"--dspex-image={_found}"]


def find(executable: str) -> bool:
    """Start further sandboxes from the image if it is there; return whether it need not be made. Takes milliseconds."""
    global _found
    path = _path(executable)
    _found = path if path is not None and _is_whole(path) else None
    if _found is not None:
        with contextlib.suppress(OSError):  # it belongs to another user
            os.utime(_found)
    return path is None or _found is not None


def make(executable: str) -> None:
    """Make the image unless it is there, which takes as long as two starts; wait for a process that makes it meanwhile.

    A failure is logged, and sandboxes start without an image.
    """
    global _found
    path = _path(executable)
    if path is None or find(executable):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / "lock"):
            if not _is_whole(path):
                _make(executable, path)
        _found = path
    except (OSError, OperationError) as error:
        _log.warning("sandboxes take seconds to start, since the image of their memory cannot be made: %s", error)


def forget(error: Exception) -> None:
    """Start further sandboxes without the image, from which one has not started."""
    global _found
    _found = None
    _log.warning("sandboxes take seconds to start, since no sandbox starts from the image of their memory: %s", error)


def _is_whole(path: Path) -> bool:
    """Return whether the file ends with the digest of what is before it. Of a damaged image no sandbox would start."""
    try:
        # The reader of a pipe would wait for a writer.
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return False
        data = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(memoryview(data)[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]


def _path(executable: str) -> Path | None:
    """Return the path of the image, whose name says all that it depends on."""
    folder = deno.cache_folder(executable)
    if folder is None or _PYODIDE is None:
        return None
    # JavaScript reads TZ otherwise than the system, and has zones that the system may not have.
    zone = (os.environ.get("TZ"), time.tzname, time.timezone, time.altzone)
    made_of = hashlib.sha256(repr((_PYODIDE, zone)).encode())
    for name in ("image.js", "pyodide.js"):
        made_of.update((_KIT / name).read_bytes())
    return Path(folder) / "dspex" / f"pyodide-{made_of.hexdigest()[:16]}.image"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which other processes and users take too.

    Raises:
        OperationError: Another process has held it for longer than it takes to make an image.
    """
    ends_at = time.monotonic() + _TIMEOUT_S
    with path.open("wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends_at:
                    problem = f"another process holds {str(path)!r} for more than {_TIMEOUT_S} s; end it"
                    raise OperationError("missing_dependency", problem) from None
            time.sleep(_LOOK_AGAIN_S)
        yield


def _make(executable: str, path: Path) -> None:
    # Of processes that were killed. Their Deno may still run: it writes only to the file of its name, if that is there.
    for left in path.parent.glob("*.part"):
        left.unlink(missing_ok=True)
    part = path.with_name(f"{uuid.uuid4().hex}.part")
    rights = [f"--allow-read={deno.cache_folder(executable)}", f"--allow-write={part}"]
    command = [executable, "run", *deno.SEALED, IMPORT_MAP, *rights, str(_KIT / "image.js"), str(part)]
    try:
        part.touch()
        done = deno.run(command, _TIMEOUT_S)
        if done.returncode != 0:
            raise OperationError("missing_dependency", deno.in_one_line(done.stderr))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _remove_unused(path.parent)


def _remove_unused(folder: Path) -> None:
    used_since = time.time() - _UNUSED_S
    for image in folder.glob("*.image"):
        with contextlib.suppress(OSError):
            if image.stat().st_mtime < used_since:
                image.unlink()
