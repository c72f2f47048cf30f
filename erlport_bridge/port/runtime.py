"""The process behind one port: reads calls, runs them side by side, answers each exactly once.

The main thread only reads. A plain function runs in one of a bounded number of threads, a coroutine function on one
asyncio loop; both may be answered in any order. When the other side closes the port the process leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

from erlport_bridge.errors import DecodeError, OperationError, ProtocolError, message_of, traceback_lines
from erlport_bridge.port import elixir, event_loop
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.protocol import (
    Call,
    ElixirAnswer,
    ElixirCall,
    ElixirMessage,
    Failure,
    FrameReader,
    Message,
    Result,
    UnreadableCall,
    encode_message,
    parse_message,
)
from erlport_bridge.term import MAX_ATOM_CHARACTERS

_READ_BYTES: Final = 1 << 20

#: Threads for functions that are not coroutines, and for what coroutines hand to threads.
DEFAULT_MAX_THREADS: Final = 64
_ANSWERING_THREADS: Final = 4
#: Calls taken in and not answered yet; one more is answered with kind ``overloaded``. Far above what one process can
#: work on, low enough that a caller who never waits cannot fill the memory.
DEFAULT_MAX_CALLS: Final = 4_096

# Of each text of an error answer when nothing longer fits: two of them, and the rest, are less than 255 bytes.
_SHORT_BYTES: Final = 100

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
        self._loop = event_loop.start()
        # What a coroutine hands to a thread (``asyncio.to_thread``) counts against the same bound.
        self._loop.set_default_executor(self._threads)
        self._imported: set[str] = set()
        elixir.connect(self._send)

    def serve(self) -> NoReturn:
        """Answer calls until the other side closes the port, then end the process."""
        try:
            self._read_calls()
        except BaseException:  # noqa: BLE001 - nobody reads any more: a process that stays would answer nothing, for ever
            _report(traceback.format_exc())
            leave(1)
        leave(0)

    def _read_calls(self) -> None:
        frames = FrameReader(self._packet)
        while data := os.read(self._descriptors.read, _READ_BYTES):
            for message in frames.receive_data(data):
                self._receive(message)
        if frames.pending_bytes:
            _report(f"the port was closed inside a frame, {frames.pending_bytes} bytes of it had come")

    def _receive(self, message: bytes) -> None:
        try:
            event = parse_message(message)
        except (DecodeError, ProtocolError) as error:
            # It names no call, so nobody can be answered.
            _report(f"dropped a frame of {len(message)} bytes: {error}")
            return
        if isinstance(event, ElixirAnswer):
            elixir.answered(event)
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
        function = None
        # Nothing is imported only to be refused; what cannot be found is refused all the same.
        with contextlib.suppress(Exception):
            function = self._resolve(event.module, event.function) if event.module in self._imported else None
        self._answer(_failed(event.id, function, error), function)

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
        """Write one answer; one that cannot be encoded, or does not fit its frame, becomes an error answer."""
        with self._calls_lock:
            self._calls -= 1
        try:
            data = self._framed(answer)
        except BaseException as error:  # noqa: BLE001 - an answer that cannot be written is still owed
            failure = answer if isinstance(answer, Failure) else _failed(answer.id, function, error)
            data = self._framed_failure(failure, error)
        self._write(data)

    def _framed_failure(self, failure: Result | Failure, error: BaseException) -> bytes:
        try:
            return self._framed(failure)
        except BaseException:  # noqa: BLE001 - it may be a details map or a traceback, and its frame one of 255 bytes
            if isinstance(failure, Failure):
                name, message = failure.type, failure.message
            else:
                name, message = _class_name(error), message_of(error)
            return self._framed(Failure(failure.id, _cut(name), _cut(message), []))

    def _framed(self, answer: Result | Failure) -> bytes:
        return encode_message(answer, packet=self._packet, compressed=self._compressed)

    def _send(self, message: ElixirCall | ElixirMessage) -> None:
        self._write(encode_message(message, packet=self._packet, compressed=self._compressed))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._write_lock:
            while view:
                try:
                    written = os.write(self._descriptors.write, view)
                except BrokenPipeError:
                    leave(0)
                except OSError as error:
                    # No answer can go out any more; the other side sees the end of this process.
                    _report(f"cannot write to the port: {error}")
                    leave(1)
                view = view[written:]


def leave(status: int) -> NoReturn:
    """End the process now.

    A normal exit would wait for threads that may sit in a language model's call for minutes, and nobody can read an
    answer any more.
    """
    try:
        for function in _before_exit:
            function()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _failed(call_id: int, function: Callable[..., Any] | None, error: BaseException) -> Result | Failure:
    """Give the answer for an exception.

    A function that has an attribute ``failure_term`` says itself how its callers are told, as a returned value;
    any other raises on the other side, as under ErlPort.
    """
    try:
        failure_term = getattr(function, "failure_term", None)
        if failure_term is not None:
            return Result(call_id, failure_term(error))
    except BaseException as raised:  # noqa: BLE001 - the caller is owed an answer, if only the general one
        _report(f"cannot tell a failure as a term: {message_of(raised)}")
    return Failure(call_id, _class_name(error), message_of(error), traceback_lines(error))


def _class_name(error: BaseException) -> str:
    # It goes out as an atom.
    return f"{type(error).__module__}.{type(error).__qualname__}"[:MAX_ATOM_CHARACTERS]


def _cut(text: str) -> str:
    return text.encode("utf-8", "backslashreplace")[:_SHORT_BYTES].decode(errors="ignore")


def _report(text: str) -> None:
    sys.stderr.write(f"erlport_bridge: {text}\n")
