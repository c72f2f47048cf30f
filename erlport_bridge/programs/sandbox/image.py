"""Start Pyodide from an image of its memory, in a tenth of the time and of the work of a start.

A start of Pyodide runs the start of Python in WebAssembly that is not compiled yet, which takes seconds of two cores.
So the memory of one that has just started is kept in a file in Deno's cache, which is made once for each version of
Pyodide, each time zone and each version of ``kit/``. Where there is none, Pyodide starts as published.

DSPy's runner is not changed: an import map puts our modules of ``kit/`` in the place of two that it imports.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import logging
import re
import time
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
# What it imports from npm, with the version.
_pyodide = re.search(r'"(npm:pyodide@[^"]+)"', RUNNER.read_text(encoding="utf-8"))
_PYODIDE: Final = _pyodide[1] if _pyodide else None
# What it imports from the web.
_READ_LINES: Final = "https://deno.land/std@0.186.0/io/mod.ts"
# Where our modules find Pyodide itself.
_PUBLISHED: Final = "pyodide-as-published"

_DIGEST_BYTES: Final = 32
# A start as published, and one from the image.
_TIMEOUT_S: Final = 120


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
    """Return the argument that names the image to DSPy's runner; none before :func:`make`, or where it failed."""
    return [] if _found is None else [f"--dspex-image={_found}"]


def make(executable: str) -> None:
    """Make the image unless it is there, which takes as long as two starts; wait for a process that makes it meanwhile.

    A failure is logged, and sandboxes start without an image.
    """
    global _found
    path = _path(executable)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_whole(path):
            with (path.parent / "lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_whole(path):
                    _make(executable, path)
        _found = path
    except (OSError, OperationError) as error:
        _found = None
        _log.warning("sandboxes take seconds to start, since the image of their memory cannot be made: %s", error)


def _is_whole(path: Path) -> bool:
    """Return whether the file ends with the digest of what is before it. Of a damaged image no sandbox would start."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(memoryview(data)[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]


def _path(executable: str) -> Path | None:
    """Return the path of the image, whose name says all that it depends on."""
    folder = deno.cache_folder(executable)
    if folder is None or _PYODIDE is None:
        return None
    made_of = hashlib.sha256(repr((_PYODIDE, time.tzname, time.timezone, time.altzone)).encode())
    for name in ("image.js", "pyodide.js"):
        made_of.update((_KIT / name).read_bytes())
    return Path(folder) / "dspex" / f"pyodide-{made_of.hexdigest()[:16]}.image"


def _make(executable: str, path: Path) -> None:
    part = path.with_suffix(".part")
    rights = [f"--allow-read={deno.cache_folder(executable)}", f"--allow-write={part}"]
    done = deno.run(
        [executable, "run", *deno.SEALED, IMPORT_MAP, *rights, str(_KIT / "image.js"), str(part)], _TIMEOUT_S
    )
    if done.returncode != 0:
        raise OperationError("missing_dependency", deno.in_one_line(done.stderr))
    part.replace(path)
