"""The process behind one port: reads calls, runs them side by side, answers each exactly once.

The main thread only reads. A plain function runs in one of a bounded number of threads, a coroutine function on one
asyncio loop; both may be answered in any order. When the other side closes the port the process leaves at once.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

from erlport_bridge.errors import DecodeError, OperationError, ProtocolError
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.protocol import (
    Call,
    Failure,
    FrameReader,
    Message,
    Result,
    UnreadableCall,
    encode_message,
    frame,
    parse_message,
)

_READ_BYTES: Final = 1 << 20

#: Threads for functions that are not coroutines, and for what coroutines hand to threads.
DEFAULT_MAX_THREADS: Final = 64
_ANSWERING_THREADS: Final = 4
#: Calls taken in and not answered yet; one more is answered with kind ``overloaded``. Far above what one process can
#: work on, low enough that a caller who never waits cannot fill the memory.
DEFAULT_MAX_CALLS: Final = 4_096

_before_exit: list[Callable[[], object]] = []


def before_exit(function: Callable[[], object]) -> None:
    """Have ``function()`` called when the process leaves because the port is closed.

    It must be quick and must not raise: nobody waits, and what it does not end (a child process) stays.
    """
    _before_exit.append(function)


class Runtime:
    """Serves one port.

    Args:
        descriptors: The protocol's two ends, as :func:`~erlport_bridge.port.descriptors.take_descriptors` gives them.
        packet: Size of a frame's length: 1, 2 or 4 bytes.
        compressed: zlib's level for answers, 0 to 9.
        modules: The Python modules whose functions may be called; ``None`` allows every module, as ErlPort does.
        max_threads: Most threads that run functions.
        max_calls: Most calls in flight.
    """

    def __init__(
        self,
        descriptors: Descriptors,
        *,
        packet: int = 4,
        compressed: int = 0,
        modules: Collection[str] | None = None,
        max_threads: int = DEFAULT_MAX_THREADS,
        max_calls: int = DEFAULT_MAX_CALLS,
    ) -> None:
        self._descriptors = descriptors
        self._packet = packet
        self._compressed = compressed
        self._modules = None if modules is None else frozenset(modules)
        self._max_calls = max_calls
        self._calls = 0
        self._calls_lock = threading.Lock()
        # Held for one whole frame, so that frames of several threads never mix.
        self._write_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="call")
        # Threads of their own: answers must go out also while every other thread is busy.
        self._answering = ThreadPoolExecutor(_ANSWERING_THREADS, thread_name_prefix="answer")
        self._loop = asyncio.new_event_loop()
        # What a coroutine hands to a thread (``asyncio.to_thread``) counts against the same bound.
        self._loop.set_default_executor(self._threads)
        self._imported: set[str] = set()

    def serve(self) -> NoReturn:
        """Answer calls until the other side closes the port, then end the process."""
        threading.Thread(target=self._loop.run_forever, name="loop", daemon=True).start()
        frames = FrameReader(self._packet)
        while data := os.read(self._descriptors.read, _READ_BYTES):
            for message in frames.receive_data(data):
                self._receive(message)
        if frames.pending_bytes:
            _report(f"the port was closed inside a frame, {frames.pending_bytes} bytes of it had come")
        leave(0)

    def _receive(self, message: bytes) -> None:
        try:
            event = parse_message(message)
        except (DecodeError, ProtocolError) as error:
            # It names no call, so nobody can be answered.
            _report(f"dropped a frame of {len(message)} bytes: {error}")
            return
        if isinstance(event, Message):
            # A stray message of the process that owns the port under ErlPort; there is no handler for it.
            return
        with self._calls_lock:
            accepted = self._calls < self._max_calls
            self._calls += 1
        if not accepted:
            self._answering.submit(self._refuse, event)
        elif event.module in self._imported:
            self._begin(event)
        else:
            # An import may take seconds, and reading never waits.
            self._threads.submit(self._begin, event)

    def _refuse(self, event: Call | UnreadableCall) -> None:
        error = OperationError(
            "overloaded", f"{self._max_calls} calls are in flight on this port already", stage="queue"
        )
        function = getattr(sys.modules.get(event.module), event.function, None)
        self._answer(_failed(event.id, function, error))

    def _begin(self, event: Call | UnreadableCall) -> None:
        """Start a call where its function belongs: on the loop or in a thread."""
        function: Callable[..., Any] | None = None
        try:
            function = self._resolve(event.module, event.function)
            if isinstance(event, UnreadableCall):
                raise event.error
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            self._answering.submit(self._answer, _failed(event.id, function, error), function)
        else:
            if inspect.iscoroutinefunction(function):
                asyncio.run_coroutine_threadsafe(self._await(event.id, function, event.arguments), self._loop)
            else:
                self._threads.submit(self._run, event.id, function, event.arguments)

    def _run(self, call_id: int, function: Callable[..., Any], arguments: list[Any]) -> None:
        answer: Result | Failure
        try:
            answer = Result(call_id, function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the one place where a call of any function becomes an answer
            answer = _failed(call_id, function, error)
        self._answer(answer, function)

    async def _await(self, call_id: int, function: Callable[..., Any], arguments: list[Any]) -> None:
        answer: Result | Failure
        try:
            answer = Result(call_id, await function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the same place, for coroutines
            answer = _failed(call_id, function, error)
        # Encoding and writing a large answer, or waiting for a full pipe, must not stop the loop.
        self._answering.submit(self._answer, answer, function)

    def _resolve(self, module_name: str, function_name: str) -> Callable[..., Any]:
        if self._modules is not None and module_name not in self._modules:
            raise ProtocolError(
                f'module "{module_name}" may not be called on this port; allowed: {", ".join(sorted(self._modules))}'
            )
        # Waits for an import that another thread has begun, which a look into sys.modules would not.
        module = importlib.import_module(module_name)
        self._imported.add(module_name)
        # A module that lists what it offers offers nothing else: what it imports is not an operation.
        offered = getattr(module, "OPERATIONS", None)
        if offered is not None and function_name not in offered:
            raise ProtocolError(
                f'{module_name} has no operation "{function_name}"; it has {", ".join(sorted(offered))}'
            )
        found: Any = module
        # Like ErlPort: 'Class.method' is a path.
        for name in function_name.split("."):
            found = getattr(found, name)
        if not callable(found):
            raise TypeError(f"{module_name}.{function_name} is not a function")
        return found  # type: ignore[no-any-return]

    def _answer(self, answer: Result | Failure, function: Callable[..., Any] | None = None) -> None:
        """Encode and write one answer; one that cannot be encoded, or does not fit, becomes an error answer."""
        with self._calls_lock:
            self._calls -= 1
        try:
            data = frame(encode_message(answer, compressed=self._compressed), self._packet)
        except Exception as error:  # noqa: BLE001 - an answer that cannot be written is still owed
            failure = _failed(answer.id, function, error)
            data = frame(encode_message(failure, compressed=self._compressed), self._packet)
        self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._write_lock:
            while view:
                try:
                    written = os.write(self._descriptors.write, view)
                except BrokenPipeError:
                    leave(0)
                view = view[written:]


def leave(status: int) -> NoReturn:
    """End the process now.

    A normal exit would wait for threads that may sit in a language model's call for minutes, and nobody can read an
    answer any more.
    """
    for function in _before_exit:
        function()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _failed(call_id: int, function: Callable[..., Any] | None, error: BaseException) -> Result | Failure:
    """Give the answer for an exception.

    A function that has an attribute ``failure_term`` says itself how its callers are told, as a returned value;
    any other raises on the other side, as under ErlPort.
    """
    failure_term = getattr(function, "failure_term", None)
    if failure_term is not None:
        return Result(call_id, failure_term(error))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    lines = [line for entry in traceback.format_tb(error.__traceback__) for line in entry.splitlines()]
    return Failure(call_id, name, _text(error), lines)


def _text(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception as raised:  # noqa: BLE001 - a __str__ that raises must not cost the caller its answer
        return f"a message that could not be made: {type(raised).__name__}"


def _report(text: str) -> None:
    sys.stderr.write(f"erlport_bridge: {text}\n")
