"""The sandbox of ProgramOfThought: Pyodide inside Deno, without web access, with limits, and killed at the deadline.

DSPy starts one interpreter for each run of the module. The module is cached and shared between calls, so it is built
without an ``interpreter_factory`` of its own (one given to the constructor would win), and each request sets its own by
``dspy.context(interpreter_factory=sandboxes.factory)``, which DSPy looks up when it creates the interpreter.

Deno's cache is filled once, by ``python -m erlport_bridge.programs.sandbox`` or by the first use. It comes from the npm
registry alone: ``sandbox_kit/`` has the one file that DSPy's runner would load from the web.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError

_KIT: Final = Path(__file__).parent / "sandbox_kit"
_IMPORT_MAP: Final = f"--import-map={_KIT / 'import_map.json'}"

# Memory of the program (Pyodide's, in pages of 64 KiB) and of JavaScript around it (in MiB). Without the first, a
# program that fills a list takes the memory of the whole machine; with it, it gets a MemoryError.
_MAX_PROGRAM_PAGES: Final = 512 * 16
_MAX_HEAP_MIB: Final = 512

# Ends a program in an endless loop whose Python process was killed and could not kill it any more.
_MAX_CPU_SECONDS: Final = 900

_VERSION_TIMEOUT_S: Final = 10
# 5 MB from the registry; a few tens of milliseconds where the cache has them.
_FETCH_TIMEOUT_S: Final = 120

_REMEDY: Final = 'install it with `pip install "erlport_bridge[sandbox]"`'


class Sandboxes:
    """The sandboxes of one request; leaving the ``with`` block ends them.

    ``kill`` may be called from any thread, at any time: a program that runs ends at once with DSPy's
    ``CodeInterpreterError``, and no further one starts.
    """

    def __init__(self) -> None:
        self.killed = False
        self._interpreters: list[_Interpreter] = []
        _open.add(self)

    def factory(self) -> dspy.PythonInterpreter:
        """Create an interpreter; DSPy calls this once for each run of a module, and shuts the interpreter down."""
        interpreter = _Interpreter(self)
        self._interpreters.append(interpreter)
        return interpreter

    def kill(self) -> None:
        """End every program of this request, however busy it is."""
        # Set first: a process that is being started now is ended by its own thread, in `_Interpreter.start`.
        self.killed = True
        for interpreter in list(self._interpreters):
            interpreter.kill()

    def __enter__(self) -> Sandboxes:
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


_open: Final[weakref.WeakSet[Sandboxes]] = weakref.WeakSet()


def kill_all() -> None:
    """End the sandboxes of every request: the process is about to exit."""
    for sandboxes in list(_open):
        sandboxes.kill()


class _Interpreter(dspy.PythonInterpreter):  # type: ignore[misc]
    """DSPy's interpreter with our import map and limits, which can be killed from another thread."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        super().__init__()
        self._sandboxes = sandboxes
        self._process: subprocess.Popen[str] | None = None
        # DSPy's own command, extended: a `deno_command` argument would switch off its version check and environment.
        after_run = self.deno_command.index("run") + 1
        self.deno_command[after_run:after_run] = [
            _IMPORT_MAP,
            "--cached-only",
            f"--v8-flags=--wasm-max-mem-pages={_MAX_PROGRAM_PAGES},--max-old-space-size={_MAX_HEAP_MIB}",
        ]

    def start(self) -> None:
        if self._sandboxes.killed:
            raise dspy.CodeInterpreterError("the sandbox was ended with its request")
        try:
            super().start()
        finally:
            self._process = self.deno_process
            if self._process is not None and self._sandboxes.killed:
                self.kill()
        _limit_cpu_time(self._process)

    def kill(self) -> None:
        process = self.deno_process or self._process
        if process is not None and process.poll() is None:
            process.kill()

    def shutdown(self) -> None:
        process = self.deno_process
        if self._sandboxes.killed and process is not None:
            self.kill()
            process.wait()
        # A process that just died breaks the pipe that DSPy writes its farewell to.
        with contextlib.suppress(BrokenPipeError):
            super().shutdown()
        if process is not None:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _limit_cpu_time(process: subprocess.Popen[str] | None) -> None:
    if process is None or sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS))


_probe_lock: Final = threading.Lock()
_probed = False


def probe() -> None:
    """Check that a sandbox can be started, before a language model is paid for a program; takes 0.1 s once.

    Raises:
        OperationError: Of kind ``missing_dependency``: there is no Deno 2, or its cache is empty and cannot be filled.
            A failure is not remembered: what is missing may be installed while this process runs.
    """
    global _probed
    with _probe_lock:
        if not _probed:
            deno = _deno()
            _check_version(deno)
            prepare(deno)
            _probed = True


def prepare(deno: str | None = None) -> None:
    """Fill Deno's cache with what the sandbox needs; quick, and without the network, where it has it.

    Raises:
        OperationError: Of kind ``missing_dependency``.
    """
    command = [deno or _deno(), "cache", "--quiet", "--no-config", "--no-lock", "--node-modules-dir=false"]
    try:
        done = _run([*command, _IMPORT_MAP, dspy.PythonInterpreter().deno_command[_RUNNER]], _FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise _cannot_fill(f"no answer from the npm registry within {_FETCH_TIMEOUT_S} s") from None
    except OSError as error:
        raise _missing(f"the sandbox needs Deno 2, which cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise _cannot_fill(" ".join(done.stderr.split())[-500:])
