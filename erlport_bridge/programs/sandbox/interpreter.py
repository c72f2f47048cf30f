"""DSPy's interpreter (Pyodide inside Deno) with limits of time and memory, which another thread can kill."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.request import within
from erlport_bridge.threads import uninterrupted

_KIT: Final = Path(__file__).parent / "kit"
#: Replaces the file that DSPy's runner would load from the web by our copy in ``kit/``.
IMPORT_MAP: Final = f"--import-map={_KIT / 'import_map.json'}"

# Memory limits: of the program (Pyodide's, in pages of 64 KiB), and of the JavaScript around it (in MiB). Without the
# first limit, a program that fills a list uses up the memory of the machine; with it, the program gets a MemoryError.
_MAX_PROGRAM_PAGES: Final = 512 * 16
_MAX_HEAP_MIB: Final = 512

#: Default of the module option ``code_timeout``: how long one execution of code may run.
DEFAULT_CODE_TIMEOUT_MS: Final = 30_000

# Ends a program in an endless loop whose Python process was killed before it could kill the program. Needed under
# ErlPort's own Python half, which has no lifeline (`port/lifeline.py`).
_MAX_CPU_SECONDS: Final = 900


class Interpreter(dspy.PythonInterpreter):  # type: ignore[misc]
    """DSPy's interpreter with our import map and limits; another thread can kill it.

    Any thread may start it. Only one thread may execute code with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_killed = False
        self._code_timeout_ms = DEFAULT_CODE_TIMEOUT_MS
        self._left_s = 0.0
        self._clock: threading.Timer | None = None
        self._clock_started_at = 0.0
        self._is_out_of_time = False
        # Extend DSPy's own command, since a `deno_command` argument would disable its version check and environment.
        after_run = self.deno_command.index("run") + 1
        self.deno_command[after_run:after_run] = [
            IMPORT_MAP,
            "--cached-only",
            f"--v8-flags=--wasm-max-mem-pages={_MAX_PROGRAM_PAGES},--max-old-space-size={_MAX_HEAP_MIB}",
        ]

    @classmethod
    def started(cls) -> Interpreter:
        """Return an interpreter that is ready to execute code."""
        interpreter = cls()
        interpreter.start()
        return interpreter

    def start(self) -> None:
        """Start the Deno process; takes about two seconds."""
        super().start()
        _limit_cpu_time(self.deno_process)

    def limit(self, code_timeout_ms: int) -> None:
        """Set the timeout of each execution; the time in which the host runs tools does not count."""
        self._code_timeout_ms = code_timeout_ms

    def offer(self, tools: Mapping[str, Callable[..., Any]], output_fields: list[dict[str, Any]] | None) -> None:
        """Set the tools that code may call, and the fields that ``SUBMIT`` takes, from the next execution on."""
        self.tools = dict(tools)
        self.output_fields = output_fields
        self._tools_registered = False

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Execute code and return its result.

        Raises:
            OperationError: Of kind ``sandbox``: the code took too long, and the sandbox was killed.
            dspy.CodeExecutionError: The code failed; the sandbox can execute more code.
            dspy.CodeInterpreterError: The sandbox ended.
        """
        if self.is_killed:
            raise dspy.CodeInterpreterError("the sandbox was ended with its request")
        self._left_s = self._code_timeout_ms / 1000
        self._start_clock()
        try:
            with within("sandbox"):
                return super().execute(code, variables)
        except dspy.CodeInterpreterError:
            if self._is_out_of_time:
                raise OperationError(
                    "sandbox",
                    f"the code that the model wrote ran longer than {self._code_timeout_ms} ms and was killed",
                ) from None
            raise
        finally:
            self._stop_clock()

    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Call a tool on the host for the running code, with the code's clock stopped."""
        self._stop_clock()
        try:
            return super().invoke_tool(tool_name, kwargs)
        finally:
            self._start_clock()

    def _start_clock(self) -> None:
        self._clock_started_at = time.monotonic()
        self._clock = threading.Timer(max(0.0, self._left_s), self._end_of_time)
        self._clock.daemon = True
        self._clock.start()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
            self._left_s -= time.monotonic() - self._clock_started_at

    def _end_of_time(self) -> None:
        self._is_out_of_time = True
        self.kill()

    def kill(self) -> None:
        """Kill the process, however busy it is; may be called from any thread."""
        self.is_killed = True
        process = self.deno_process
        if process is not None and process.poll() is None:
            process.kill()

    def shutdown(self) -> None:
        """End the process, reap it, and close its pipes."""
        process = self.deno_process
        if process is None:
            return
        with uninterrupted():
            if self.is_killed:
                process.kill()
                process.wait()
            # DSPy leaves the pipes open, and writes a last message, which breaks the pipe if the process has just died.
            with contextlib.suppress(BrokenPipeError):
                super().shutdown()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def end(interpreter: Interpreter) -> None:
    """End an unused sandbox without waiting."""
    interpreter.kill()
    # In a thread: reaping the process takes a while, and the caller may be on an event loop.
    threading.Thread(target=interpreter.shutdown, name="sandbox end", daemon=True).start()


def _limit_cpu_time(process: subprocess.Popen[str]) -> None:
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS))
