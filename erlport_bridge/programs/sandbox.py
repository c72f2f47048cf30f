"""The sandbox of ProgramOfThought: Pyodide inside Deno, without web access, with limits, and killed at the deadline.

DSPy starts one interpreter for each run of the module. The module is cached and shared between calls, so it is built
without an ``interpreter_factory`` of its own (one given to the constructor would win), and each request sets its own by
``dspy.context(interpreter_factory=sandboxes.factory)``, which DSPy looks up when it creates the interpreter.

Deno's cache is filled once, by ``python -m erlport_bridge.programs.sandbox`` or by the first use. It comes from the npm
registry alone: ``sandbox_kit/`` has the one file that DSPy's runner would load from the web.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import quoted

_KIT: Final = Path(__file__).parent / "sandbox_kit"
_IMPORT_MAP: Final = f"--import-map={_KIT / 'import_map.json'}"

# Memory of the program (Pyodide's, in pages of 64 KiB) and of JavaScript around it (in MiB). Without the first, a
# program that fills a list takes the memory of the whole machine; with it, it gets a MemoryError.
_MAX_PROGRAM_PAGES: Final = 512 * 16
_MAX_HEAP_MIB: Final = 512

# Ends a program in an endless loop whose Python process was killed and could not kill it any more, where there is no
# lifeline (`port/lifeline.py`): under ErlPort's own Python half.
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
        # DSPy's own command, extended: a `deno_command` argument would switch off its version check and environment.
        after_run = self.deno_command.index("run") + 1
        self.deno_command[after_run:after_run] = [
            _IMPORT_MAP,
            "--cached-only",
            f"--v8-flags=--wasm-max-mem-pages={_MAX_PROGRAM_PAGES},--max-old-space-size={_MAX_HEAP_MIB}",
        ]

    def start(self) -> None:
        if not self._sandboxes.killed:
            super().start()
            _limit_cpu_time(self.deno_process)
        if self._sandboxes.killed:
            # Killed before there was a process that `kill` could have seen.
            self.kill()
            raise dspy.CodeInterpreterError("the sandbox was ended with its request")

    def kill(self) -> None:
        process = self.deno_process
        if process is not None and process.poll() is None:
            process.kill()

    def shutdown(self) -> None:
        process = self.deno_process
        if process is None:
            return
        if self._sandboxes.killed:
            process.kill()
            process.wait()
        # DSPy leaves the pipes open, and writes a farewell to one that breaks if the process has just died.
        with contextlib.suppress(BrokenPipeError):
            super().shutdown()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _limit_cpu_time(process: subprocess.Popen[str]) -> None:
    if sys.platform == "linux":
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
            prepare()
            _probed = True


def prepare() -> None:
    """Check the version of Deno and fill its cache; quick, and without the network, where the cache is filled.

    Raises:
        OperationError: Of kind ``missing_dependency``.
    """
    deno = dspy.PythonInterpreter().deno_command[0]
    version = re.match(r"deno (\d+)\.\S+", _run([deno, "--version"], _VERSION_TIMEOUT_S).stdout)
    if version is None or version[1] != "2":
        found = version[0] if version else "something else"
        raise OperationError(
            "missing_dependency", f"the sandbox needs Deno 2, but {quoted(deno)} is {found}; {_REMEDY}"
        )
    runner = Path(inspect.getfile(dspy.PythonInterpreter)).with_name("runner.js")
    options = ["--quiet", "--no-config", "--no-lock", "--node-modules-dir=false", _IMPORT_MAP]
    done = _run([deno, "cache", *options, str(runner)], _FETCH_TIMEOUT_S)
    if done.returncode != 0:
        raise OperationError(
            "missing_dependency",
            "the sandbox's packages are not in Deno's cache and cannot be fetched from the npm registry; run "
            f"`python -m erlport_bridge.programs.sandbox` where it can be reached: {_first_line(done.stderr)}",
        )


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DENO_NO_PACKAGE_JSON": "1", "NO_COLOR": "1"}
    try:
        return subprocess.run(  # noqa: S603 - a fixed command
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        problem = f"{command[0]} {command[1]} gave no answer within {timeout_s} s"
        raise OperationError("missing_dependency", f"the sandbox needs Deno 2, but {problem}") from None
    except OSError as error:
        problem = f"{quoted(command[0])} cannot be run ({error.strerror})"
        raise OperationError("missing_dependency", f"the sandbox needs Deno 2, but {problem}; {_REMEDY}") from None


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:300]


if __name__ == "__main__":
    try:
        prepare()
    except OperationError as error:
        sys.exit(str(error))
