"""The sandboxes of a request, in which code that a model wrote runs: Pyodide inside Deno, offline, with limits.

DSPy creates one interpreter for each run of a module. Calls share cached modules, so modules are built without an
``interpreter_factory`` (the constructor's factory would take precedence). Each request sets its own factory by
``dspy.context(interpreter_factory=sandboxes.factory)``, which DSPy looks up when it creates the interpreter. The
interpreters come from a pool of started ones (:mod:`.warm_pool`), and each serves one run.

Deno's cache is filled once, by ``python -m erlport_bridge.programs.sandbox`` or by the first use. All its content comes
from the npm registry, but for the image from which sandboxes start (:mod:`.image`): ``kit/`` has the one file that
DSPy's runner would load from the web.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox import deno, image
from erlport_bridge.programs.sandbox.facade import check_tools, is_setup
from erlport_bridge.programs.sandbox.interpreter import (
    CodeLimits,
    Interpreter,
    end,
)
from erlport_bridge.programs.sandbox.warm_pool import WarmPool, warm_size
from erlport_bridge.programs.text import quoted
from erlport_bridge.request import within
from erlport_bridge.threads import Interrupted, uninterrupted, wait_for

_VERSION_TIMEOUT_S: Final = 10
# A download of 5 MB from the registry; a few tens of milliseconds if the cache is filled.
_FETCH_TIMEOUT_S: Final = 120

_DEFAULT_LIMITS: Final = CodeLimits()

_pool: Final = WarmPool(Interpreter.started, end, size=warm_size())


class Sandbox:
    """The interpreter of one run of a module, as DSPy sees it.

    The first execution waits until the sandbox is ready, so the sandbox starts while the model writes the code.

    Attributes:
        tools: The tools that the code may call, by name.
        output_fields: The fields that ``SUBMIT`` takes.
    """

    def __init__(self, sandboxes: Sandboxes, limits: CodeLimits) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: list[dict[str, Any]] | None = None
        self._sandboxes = sandboxes
        self._limits = limits
        self._interpreter: Interpreter | None = None

    def start(self) -> None:
        """Wait until the sandbox is ready; see :meth:`Sandboxes.take`."""
        self._started()

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Execute code; see :meth:`Interpreter.execute` and :func:`.facade.check_tools`."""
        check_tools(self.tools)
        interpreter = self._started()
        if interpreter.tools != self.tools or interpreter.output_fields != self.output_fields:
            interpreter.offer(self.tools, self.output_fields)
        interpreter.limit(_DEFAULT_LIMITS if is_setup(code) else self._limits)
        return interpreter.execute(code, variables)

    def shutdown(self) -> None:
        """End the sandbox."""
        if self._interpreter is not None:
            self._interpreter.shutdown()

    def _started(self) -> Interpreter:
        if self._interpreter is None:
            self._interpreter = self._sandboxes.take()
        return self._interpreter


class Sandboxes:
    """The sandboxes of one request; leaving the ``with`` block ends them.

    Any thread may call ``kill`` at any time. A running program then ends at once with DSPy's ``CodeInterpreterError``,
    and no further program starts.
    """

    def __init__(self) -> None:
        self.killed = False
        self.factory = Factory(self)
        self._lock = threading.Lock()
        self._prepared: Future[Interpreter] | None = None
        self._interpreters: list[Interpreter] = []
        _open.add(self)

    def prepare(self) -> None:
        """Start a sandbox for this request, to be ready when its model has answered."""
        self._prepared = _pool.take()

    def take(self) -> Interpreter:
        """Wait for a fresh sandbox and return it; the caller shuts it down.

        Raises:
            dspy.CodeInterpreterError: The request has ended.
        """
        coming: Future[Interpreter] | None = None
        try:
            # No interruption between these steps: nobody would give back, or end, what the pool has handed over.
            with uninterrupted():
                coming = self._taken() or _pool.take()
            with within("sandbox"):
                wait_for(coming)
            with uninterrupted(), self._lock:
                if not self.killed:
                    self._interpreters.append(coming.result())
                    return self._interpreters[-1]
        except Interrupted:
            # Cancelled, it is not handed to this call and then back: whoever asked in between would start another.
            if coming is not None and not coming.cancel():
                coming.add_done_callback(_give_back)
            raise
        _give_back(coming)
        raise _ended()

    def _taken(self) -> Future[Interpreter] | None:
        """Return the sandbox that was prepared, which is this caller's now."""
        with self._lock:
            if self.killed:
                raise _ended()
            prepared, self._prepared = self._prepared, None
        return prepared

    def kill(self) -> None:
        """Kill every sandbox of this request, however busy it is."""
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


def _ended() -> dspy.CodeInterpreterError:
    return dspy.CodeInterpreterError("the sandbox was ended with its request")


def _give_back(coming: Future[Interpreter]) -> None:
    """Return an unused sandbox to the pool."""
    if not coming.cancelled() and coming.exception() is None:
        _pool.give_back(coming.result())


class Factory:
    """The ``interpreter_factory`` of a request; DSPy calls it once for each run of a module that executes code.

    Args:
        sandboxes: The sandboxes of the request.
        limits: The limits of each execution.
    """

    # dspy.RLM puts these instructions into its prompt.
    execution_instructions = dspy.PythonInterpreter.execution_instructions

    def __init__(self, sandboxes: Sandboxes, limits: CodeLimits = _DEFAULT_LIMITS) -> None:
        self._sandboxes = sandboxes
        self._limits = limits

    def within(self, limits: CodeLimits) -> Factory:
        """Return a factory for the same sandboxes with other limits."""
        return Factory(self._sandboxes, limits)

    def __call__(self) -> Sandbox:
        """Return a sandbox; the caller shuts it down."""
        return Sandbox(self._sandboxes, self._limits)


_open: Final[weakref.WeakSet[Sandboxes]] = weakref.WeakSet()


def kill_all() -> None:
    """Kill the sandboxes of every request and of the pool, before the process exits."""
    for sandboxes in list(_open):
        sandboxes.kill()
    _pool.close()


def report() -> dict[str, Any]:
    """Return the report of this process's pool; see :meth:`WarmPool.report`."""
    return _pool.report()


_probe_lock: Final = threading.Lock()
_probed: Future[None] | None = None


async def probe() -> None:
    """Check that a sandbox can start, before a language model is paid for writing a program; takes 0.1 s once.

    The check does not end with the call that begins it. If there is no image, it is made meanwhile and after it.

    Raises:
        OperationError: Of kind ``missing_dependency``: there is no Deno 2, or its cache is empty and cannot be filled.
            The next call checks again, since Deno may be installed while this process runs.
    """
    global _probed
    with _probe_lock:
        if _probed is None or (_probed.done() and _probed.exception() is not None):
            _probed = Future()
            # So that a call that ends cannot cancel it.
            _probed.set_running_or_notify_cancel()
            threading.Thread(target=_probe, args=(_probed,), name="sandbox probe", daemon=True).start()
        probed = _probed
    await asyncio.wrap_future(probed)


def _probe(probed: Future[None]) -> None:
    try:
        executable = _checked()
        is_image_there = image.find(executable)
    except Exception as error:  # noqa: BLE001 - every error must reach the waiting calls
        probed.set_exception(error)
        return
    probed.set_result(None)
    if not is_image_there:
        image.make(executable)


def prepare() -> None:
    """Check the version of Deno, fill its cache, and make the image; fast and without network if both are there.

    Raises:
        OperationError: Of kind ``missing_dependency``: there is no Deno 2, or the npm registry cannot be reached.
    """
    image.make(_checked())


def _checked() -> str:
    """Return Deno's executable, whose version is right, and whose cache is filled."""
    executable: str = Interpreter().deno_command[0]
    version = re.match(r"deno (\d+)\.\S+", deno.run([executable, "--version"], _VERSION_TIMEOUT_S).stdout)
    if version is None or version[1] != "2":
        found = version[0] if version else "something else"
        raise OperationError(
            "missing_dependency", f"the sandbox needs Deno 2, but {quoted(executable)} is {found}; {deno.REMEDY}"
        )
    # Deno splits paths at commas: it would have the right to read other folders, which is not taken back.
    for path, remedy in (
        (os.path.realpath(image.RUNNER), "install DSPy in another folder"),
        (deno.cache_folder(executable) or "", "set DENO_DIR to another folder"),
    ):
        if "," in path:
            raise OperationError("missing_dependency", f"the sandbox's path {path!r} has a comma; {remedy}")
    options = [option for option in deno.SEALED if option != "--cached-only"]
    command = [executable, "cache", *options, image.IMPORT_MAP, str(image.RUNNER)]
    done = deno.run(command, _FETCH_TIMEOUT_S, downloads=True)
    if done.returncode != 0:
        raise OperationError(
            "missing_dependency",
            "the sandbox's packages are not in Deno's cache and cannot be fetched from the npm registry; run "
            f"`python -m erlport_bridge.programs.sandbox` where it can be reached: {deno.in_one_line(done.stderr)}",
        )
    return executable
