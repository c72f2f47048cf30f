"""The sandbox of code that a model wrote: Pyodide inside Deno, without web access, with limits, and killed at them.

DSPy asks for one interpreter for each run of a module. The module is cached and shared between calls, so it is built
without an ``interpreter_factory`` of its own (one given to the constructor would win), and each request sets its own by
``dspy.context(interpreter_factory=sandboxes.factory)``, which DSPy looks up when it creates the interpreter. Those come
from a pool of started ones (:mod:`.warm_pool`), each for one run.

Deno's cache is filled once, by ``python -m erlport_bridge.programs.sandbox`` or by the first use. It comes from the npm
registry alone: ``kit/`` has the one file that DSPy's runner would load from the web.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox.facade import check_tools
from erlport_bridge.programs.sandbox.interpreter import (
    DEFAULT_CODE_TIMEOUT_MS,
    IMPORT_MAP,
    Interpreter,
    end,
)
from erlport_bridge.programs.sandbox.warm_pool import WarmPool, warm_size
from erlport_bridge.programs.text import quoted
from erlport_bridge.request import within
from erlport_bridge.threads import Interrupted, uninterrupted

_VERSION_TIMEOUT_S: Final = 10
# 5 MB from the registry; a few tens of milliseconds where the cache has them.
_FETCH_TIMEOUT_S: Final = 120

_REMEDY: Final = 'install it with `pip install "erlport_bridge[sandbox]"`'


_pool: Final = WarmPool(Interpreter.started, end, size=warm_size())


class Sandbox:
    """A sandbox for one run of a module, as DSPy sees it; it is waited for when the first code comes.

    So the model is asked while the sandbox starts.

    Attributes:
        tools: What the code may call, by name.
        output_fields: What ``SUBMIT`` takes.
    """

    def __init__(self, sandboxes: Sandboxes, code_timeout_ms: int) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: list[dict[str, Any]] | None = None
        self._sandboxes = sandboxes
        self._code_timeout_ms = code_timeout_ms
        self._interpreter: Interpreter | None = None

    def start(self) -> None:
        """Wait until it is ready; see :meth:`Sandboxes.take`."""
        self._started()

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Execute code; see :meth:`Interpreter.execute` and :func:`.facade.check_tools`."""
        check_tools(self.tools)
        interpreter = self._started()
        if interpreter.tools != self.tools or interpreter.output_fields != self.output_fields:
            interpreter.offer(self.tools, self.output_fields)
        return interpreter.execute(code, variables)

    def shutdown(self) -> None:
        """End it."""
        if self._interpreter is not None:
            self._interpreter.shutdown()

    def _started(self) -> Interpreter:
        if self._interpreter is None:
            self._interpreter = self._sandboxes.take()
            self._interpreter.limit(self._code_timeout_ms)
        return self._interpreter


class Sandboxes:
    """The sandboxes of one request; leaving the ``with`` block ends them.

    ``kill`` may be called from any thread, at any time: a program that runs ends at once with DSPy's
    ``CodeInterpreterError``, and no further one starts.
    """

    def __init__(self) -> None:
        self.killed = False
        self.factory = Factory(self)
        self._lock = threading.Lock()
        self._prepared: Future[Interpreter] | None = None
        self._interpreters: list[Interpreter] = []
        _open.add(self)

    def prepare(self) -> None:
        """Have a sandbox made ready for this request while its model is asked."""
        self._prepared = _pool.take()

    def take(self) -> Interpreter:
        """Give one that has run nothing yet, waiting until it is ready; whoever takes it shuts it down.

        Raises:
            dspy.CodeInterpreterError: The request has ended.
        """
        with self._lock:
            if self.killed:
                raise dspy.CodeInterpreterError("the sandbox was ended with its request")
            prepared, self._prepared = self._prepared, None
        coming = prepared or _pool.take()
        try:
            with within("sandbox"):
                wait([coming])
            # What is ready is noted, or it would never be killed.
            with uninterrupted(), self._lock:
                if not self.killed:
                    self._interpreters.append(coming.result())
                    return self._interpreters[-1]
        except Interrupted:
            coming.add_done_callback(_give_back)
            raise
        _give_back(coming)
        raise dspy.CodeInterpreterError("the sandbox was ended with its request")

    def kill(self) -> None:
        """End every program of this request, however busy it is."""
        with self._lock:
            self.killed = True
            interpreters = list(self._interpreters)
            coming, self._prepared = self._prepared, None
        for interpreter in interpreters:
            interpreter.kill()
        if coming is not None and not coming.cancel():
            _give_back(coming)

    def __enter__(self) -> Sandboxes:
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def _give_back(coming: Future[Interpreter]) -> None:
    """Have what is ready and not used do for another request."""
    if not coming.cancelled() and coming.exception() is None:
        _pool.give_back(coming.result())


class Factory:
    """What DSPy calls for an interpreter, once for each run of a module that needs one.

    Args:
        sandboxes: Those of the request.
        code_timeout_ms: How long each execution may take.
    """

    # A prompt of dspy.RLM says what the code may do.
    execution_instructions = dspy.PythonInterpreter.execution_instructions

    def __init__(self, sandboxes: Sandboxes, code_timeout_ms: int = DEFAULT_CODE_TIMEOUT_MS) -> None:
        self._sandboxes = sandboxes
        self._code_timeout_ms = code_timeout_ms

    def within(self, code_timeout_ms: int) -> Factory:
        """Give the same with another limit."""
        return Factory(self._sandboxes, code_timeout_ms)

    def __call__(self) -> Sandbox:
        """Give a sandbox, which whoever takes it shuts down."""
        return Sandbox(self._sandboxes, self._code_timeout_ms)


_open: Final[weakref.WeakSet[Sandboxes]] = weakref.WeakSet()


def kill_all() -> None:
    """End the sandboxes of every request, and those that wait for one: the process is about to exit."""
    for sandboxes in list(_open):
        sandboxes.kill()
    _pool.close()


def report() -> dict[str, Any]:
    """Give what :meth:`WarmPool.report` gives, of this process."""
    return _pool.report()


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
    options = ["--quiet", "--no-config", "--no-lock", "--node-modules-dir=false", IMPORT_MAP]
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
