"""DSPy's interpreter (Pyodide inside Deno) with limits, which another thread can kill."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, NamedTuple, NoReturn, TypeAlias, cast

import dspy

from erlport_bridge.dspy_patches import sets_as_lists
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox import deno, image
from erlport_bridge.programs.sandbox.messages import MAX_MESSAGE_BYTES, Lines, MessageError, read_message
from erlport_bridge.programs.sandbox.watch import Watch
from erlport_bridge.request import within
from erlport_bridge.threads import uninterrupted
from erlport_bridge.tracing import span

_KIT: Final = Path(__file__).parent / "kit"
# Runs in each sandbox before other code.
_PLAIN_VALUES: Final = (_KIT / "values.py").read_text(encoding="utf-8")

# Memory limits: of the program (Pyodide's, in pages of 64 KiB), and of the JavaScript around it (in MiB). With the
# first limit, a program that fills a list gets a MemoryError, and goes on. What is outside of both is watched
# (`watch.py`).
_MAX_PROGRAM_PAGES: Final = 512 * 16
_MAX_HEAP_MIB: Final = 512

#: Default of the module option ``code_timeout``: how long one execution of code may run.
DEFAULT_CODE_TIMEOUT_MS: Final = 30_000
#: Default of the module option ``max_code_calls``: how many calls of tools one execution of code may make.
DEFAULT_CODE_CALLS: Final = 1_000

# How long a process whose output has ended may take to end itself.
_END_TIMEOUT_S: Final = 5.0

_Pipes: TypeAlias = tuple[BinaryIO, BinaryIO, BinaryIO]


class CodeLimits(NamedTuple):
    """The limits of each execution of code."""

    timeout_ms: int = DEFAULT_CODE_TIMEOUT_MS
    calls: int = DEFAULT_CODE_CALLS


class Interpreter(dspy.PythonInterpreter):  # type: ignore[misc]
    """DSPy's interpreter with our import map and limits; another thread can kill it.

    Any thread may start it. Only one thread may execute code with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_killed = False
        self._limits = CodeLimits()
        self._left_s = 0.0
        self._clock: threading.Timer | None = None
        self._clock_lock = threading.Lock()
        self._clock_started_at = 0.0
        # Why it was killed: the end of a sentence about the code. The first reason counts.
        self._killed_because: str | None = None
        self._calls = 0
        self._answered_call: str | None = None
        # Extend DSPy's own command, since a `deno_command` argument would disable its environment.
        self.deno_command[0] = deno.program(self.deno_command[0])
        after_run = self.deno_command.index("run") + 1
        self.deno_command[after_run:after_run] = [
            image.IMPORT_MAP,
            "--cached-only",
            f"--v8-flags=--wasm-max-mem-pages={_MAX_PROGRAM_PAGES},--max-old-space-size={_MAX_HEAP_MIB}",
        ]
        self.deno_command += image.argument()

    @classmethod
    def started(cls) -> Interpreter:
        """Return an interpreter that is ready to execute code."""
        has_image = image.argument() != []
        try:
            return cls()._ready()
        except dspy.CodeInterpreterError as error:
            if not has_image:
                raise
            image.forget(error)
        return cls()._ready()

    def _ready(self) -> Interpreter:
        try:
            self.start()
        except BaseException:
            # Its pipes would stay open.
            self.shutdown()
            raise
        return self

    @staticmethod
    def _get_deno_dir(deno_executable: str = "deno") -> str | None:
        return deno.cache_folder(deno_executable)

    def _spawn_process(self) -> None:
        """Start the Deno process, which takes about a second; its version has been checked by ``prepare``."""
        process = subprocess.Popen(  # noqa: S603 - a fixed command
            self.deno_command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=deno.environment(),
        )
        stdin, stdout, stderr = cast(_Pipes, (process.stdin, process.stdout, process.stderr))
        process.stdin = cast(IO[bytes], io.TextIOWrapper(stdin, "utf-8"))  # DSPy writes text
        self.deno_process = process
        self._lines = Lines(stdout)
        self._watch = Watch(process.pid, stderr, self._kill_for)
        self._health_check()
        self._send_request("execute", {"code": _PLAIN_VALUES}, "during set-up")
        self._watch.set_limits()

    def limit(self, limits: CodeLimits) -> None:
        """Set the limits of each execution; the time in which the host runs tools does not count."""
        self._limits = limits

    def offer(self, tools: Mapping[str, Callable[..., Any]], output_fields: list[dict[str, Any]] | None) -> None:
        """Set the tools that code may call, and the fields that ``SUBMIT`` takes, from the next execution on."""
        self.tools = dict(tools)
        self.output_fields = output_fields
        self._tools_registered = False

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Execute code and return its result.

        Raises:
            OperationError: Of kind ``sandbox``: the code took too much time or memory, or broke the protocol, and the
                sandbox was killed.
            dspy.CodeExecutionError: The code failed; the sandbox can execute more code.
            dspy.CodeInterpreterError: The sandbox ended.
        """
        if self.is_killed:
            self._raise_reason()
            raise dspy.CodeInterpreterError("the sandbox was ended with its request")
        with span("sandbox", "python") as traced:
            if traced is None:
                return self._executed(code, variables)
            traced.keep(code=code)
            output = self._executed(code, variables)
            traced.keep(output=output)
            return output

    def _executed(self, code: str, variables: dict[str, Any] | None) -> Any:
        self._calls = 0
        self._left_s = self._limits.timeout_ms / 1000
        self._start_clock()
        try:
            if self.deno_process is not None:
                self._watch.begin()
            with within("sandbox"):
                return super().execute(code, sets_as_lists(variables))
        except dspy.CodeInterpreterError:
            self._raise_reason()
            raise
        finally:
            self._stop_clock()

    def _raise_reason(self) -> None:
        """Raise the error of a sandbox that was killed for what code did; it may be noticed only by the next one."""
        if self._killed_because is not None:
            raise OperationError(
                "sandbox", f"the code that the model wrote {self._killed_because} and was killed"
            ) from None

    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Call a tool on the host for the running code, with the code's clock stopped."""
        self._calls += 1
        if self._calls > self._limits.calls:
            raise RuntimeError(
                f"this code has called tools {self._limits.calls} times, the limit of opts.max_code_calls"
            )
        self._stop_clock()
        try:
            return sets_as_lists(super().invoke_tool(tool_name, kwargs))
        finally:
            self._start_clock()

    def _handle_tool_call(self, request: dict[str, Any]) -> None:
        self._answered_call = request["id"]
        try:
            super()._handle_tool_call(request)
        finally:
            self._answered_call = None

    def _write_message(self, message: str, context: str) -> None:
        if self._answered_call is not None and len(message) > MAX_MESSAGE_BYTES:
            problem = f"the result of the tool has {len(message)} bytes in JSON, more than {MAX_MESSAGE_BYTES}"
            error = {"code": -32003, "message": problem, "data": {"type": "ValueError"}}
            message = json.dumps({"jsonrpc": "2.0", "error": error, "id": self._answered_call})
        super()._write_message(message, context)

    def _read_response_line(self, context: str) -> bytes:
        """Read one line of Deno's output, or raise the error of a sandbox that has ended."""
        try:
            line = self._lines.next()
        except MessageError as error:
            self._refuse(error)
        if line == b"":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.deno_process.wait(_END_TIMEOUT_S)
            self._raise_terminal_error(f"Deno exited (code {self.deno_process.poll()}) {context}")
        return line

    def _parse_response_line(self, response_line: bytes, context: str) -> dict[str, Any] | None:
        """Return the message of a line, ``None`` if it is none; a message that DSPy cannot take ends the sandbox."""
        try:
            return read_message(response_line)
        except MessageError as error:
            self._refuse(error)

    def _refuse(self, error: MessageError) -> NoReturn:
        self._kill_for(f"broke the protocol of its sandbox ({error})")
        self._raise_terminal_error(str(error))

    def _raise_terminal_error(self, message: str, cause: Exception | None = None) -> NoReturn:
        """Kill the process, which need not heed the signal that DSPy sends, and raise DSPy's error."""
        self.kill()
        self.deno_process.wait()
        self._watch.end()
        super()._raise_terminal_error(f"{message}: {self._watch.stderr_sentence()}".removesuffix(": "), cause)
        raise AssertionError

    def _start_clock(self) -> None:
        self._clock_started_at = time.monotonic()
        self._clock = threading.Timer(max(0.0, self._left_s), self._end_of_time)
        self._clock.daemon = True
        self._clock.start()

    def _stop_clock(self) -> None:
        with self._clock_lock:
            clock, self._clock = self._clock, None
        if clock is not None:
            clock.cancel()
            self._left_s -= time.monotonic() - self._clock_started_at

    def _end_of_time(self) -> None:
        with self._clock_lock:
            # Stopped at this moment, it must not end what runs next.
            if self._clock is threading.current_thread():
                self._kill_for(f"ran longer than {self._limits.timeout_ms} ms")

    def _kill_for(self, reason: str) -> None:
        self._killed_because = self._killed_because or reason
        self.kill()

    def kill(self) -> None:
        """Kill the process, however busy it is; may be called from any thread."""
        self.is_killed = True
        process = self.deno_process
        if process is not None and process.poll() is None:
            process.kill()

    def shutdown(self) -> None:
        """Kill the process, reap it, and close its pipes.

        DSPy asks the process to end and waits; a timer that code left behind keeps it alive for ever.
        """
        process = self.deno_process
        if process is None:
            return
        with uninterrupted():
            self.kill()
            process.wait()
            super().shutdown()
            self._watch.end()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def end(interpreter: Interpreter) -> None:
    """End an unused sandbox without waiting."""
    interpreter.kill()
    # In a thread: reaping the process takes a while, and the caller may be on an event loop.
    threading.Thread(target=interpreter.shutdown, name="sandbox end", daemon=True).start()
