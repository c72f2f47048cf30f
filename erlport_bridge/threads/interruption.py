"""Interrupt a function in another thread, by an exception that is raised in this function and nowhere else.

CPython can set an asynchronous exception, which a thread raises as soon as it runs Python code again
(``PyThreadState_SetAsyncExc``). This module sets it only while the thread runs one given function, and never

- after the function has returned: the thread then runs something else, perhaps the next call,
- within :func:`uninterrupted`, where a half-done step would harm others, such as half a frame on the port,
- in code that briefly holds a lock of the whole process without a ``with`` (``logging``, the import system).

A blocking function in C (a socket, a long sleep) is not cut short: the exception is raised when it returns. Waiting for
another thread by :func:`wait_for` ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

_Result = TypeVar("_Result")

# Prefixes of modules: while a thread runs their code, the exception is not set. Functions that they call may get it.
_FRAGILE: Final = (
    *("importlib._bootstrap", "subprocess"),
    *("erlport_bridge.port.", "erlport_bridge.term.", "erlport_bridge.threads."),
    # A half-done count would stay wrong for ever.
    "erlport_bridge.counting.",
)
# Functions of `logging` that take a lock before the `try` that releases it; see also `protect_logging`.
_FRAGILE_IN_LOGGING: Final = frozenset(
    {"handle", "acquire", "release", "flush", "close", "isEnabledFor", "getLogger", "_acquireLock", "_releaseLock"}
)

_set_exception: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
# Held to set an exception in a thread, and by a thread that must not get one any more. One lock for all threads, since
# interrupts are rare. Reentrant, since a finalizer may run while a thread holds it, and may do anything.
_setting: Final = threading.RLock()
# The work that the current thread runs.
_here = threading.local()


class Interrupted(BaseException):
    """Raised in a thread whose work is cancelled; a ``BaseException``, so that ``except Exception`` cannot catch it."""


class Work:
    """A function that runs in one thread by :meth:`run`, and that any other thread may :meth:`interrupt`.

    Attributes:
        name: The function or its name, to be shown to people.
        is_pooled: Whether the thread belongs to the thread pool.
        is_cancelled: Whether the function has been interrupted, or will be as soon as it begins.
        taken_s: How long the function has run, once it has ended.
    """

    __slots__ = (
        *("_began_at", "_is_leaving", "_sent", "_shields", "_thread_id", "_wake"),
        *("is_cancelled", "is_pooled", "name", "taken_s"),
    )

    def __init__(self, name: object, *, is_pooled: bool = False) -> None:
        self.name = name
        self.is_pooled = is_pooled
        self.is_cancelled = False
        self.taken_s = 0.0
        self._began_at = 0.0
        self._thread_id: int | None = None
        self._is_leaving = False
        self._sent = 0
        self._shields = 0
        self._wake: Callable[[], object] | None = None

    def run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run the function in the calling thread, once.

        Raises:
            Interrupted: The function was interrupted; no further asynchronous exception can come afterwards.
            BaseException: Whatever the function raises.
        """
        try:
            try:
                _here.work = self
                self._began_at = time.perf_counter()
                self._thread_id = threading.get_ident()
                if self.is_cancelled:
                    raise Interrupted
                return function(*arguments)
            finally:
                # `interrupt` checks this, so that at most one exception can be raised from here on.
                self._is_leaving = True
                self._leave()
        except Interrupted:
            self._leave()
            raise

    def interrupt(self) -> bool:
        """Raise :class:`Interrupted` in the function; return whether that was possible at this moment.

        May be called again, if it was not possible or if the function has caught the exception and gone on.
        """
        is_set = self._set_exception()
        wake = self._wake
        if wake is not None:
            wake()
        return is_set

    def _set_exception(self) -> bool:
        with _setting:
            self.is_cancelled = True
            if self._thread_id is None:
                return False
            if self._sent:
                # Clear an exception that has not been raised yet, so that the function does not get two.
                _set_exception(ctypes.c_ulong(self._thread_id), None)
            if self._is_leaving or self._shields or _is_fragile(_innermost(self._thread_id)):
                return False
            self._sent += 1
            _set_exception(ctypes.c_ulong(self._thread_id), ctypes.py_object(Interrupted))
            return True

    @property
    def was_interrupted(self) -> bool:
        """Return whether the exception has been set."""
        return self._sent > 0

    @property
    def has_ended(self) -> bool:
        """Return whether the function has returned or raised."""
        return self._is_leaving

    def place(self) -> str | None:
        """Return where the function is now, as text for people, or ``None`` if that is unknown."""
        frame = None if self._thread_id is None or self._is_leaving else _innermost(self._thread_id)
        if frame is None or frame.f_globals is globals():  # a function in C
            return None
        return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"

    def _leave(self) -> None:
        self._is_leaving = True
        self.taken_s = time.perf_counter() - self._began_at
        # `interrupt` sets is_cancelled first, and then checks _is_leaving; here it is the other way round. So at least
        # one of the two threads sees the other's flag.
        if self.is_cancelled:
            with _setting:
                if self._sent:
                    _set_exception(ctypes.c_ulong(threading.get_ident()), None)
        _here.work = None

    def wake_by(self, wake: Callable[[], object] | None) -> None:
        """Set the function that an interrupt calls to end the wait that begins now; ``None`` after the wait."""
        self._wake = wake
        if wake is not None and self.is_cancelled:
            wake()

    def shield(self) -> None:
        """Hold back interrupts of this thread until :meth:`unshield`; raise one that has been set already."""
        shielded = False
        try:
            with _setting:
                self._shields += 1
                shielded = True
            _raise_pending()
        except Interrupted:
            if shielded:
                self._shields -= 1
            raise

    def unshield(self) -> None:
        """End :meth:`shield`; raise :class:`Interrupted` if the work was interrupted meanwhile."""
        with _setting:
            self._shields -= 1
            is_next = self.is_cancelled and not self._sent and not self._shields
            self._sent += is_next
        if is_next:
            raise Interrupted


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back interrupts within the ``with`` block, and raise one afterwards."""
    work: Work | None = getattr(_here, "work", None)
    if work is None:
        yield
        return
    work.shield()
    try:
        yield
    finally:
        work.unshield()


def wait_for(future: Future[_Result]) -> _Result:
    """Wait for the future of another thread's work, and return its result; an interrupt cancels the future.

    Raises:
        Interrupted: The work of this thread was interrupted.
        BaseException: The exception of the future.
    """
    work: Work | None = getattr(_here, "work", None)
    if work is None:
        return future.result()
    work.wake_by(future.cancel)
    try:
        return future.result()
    except CancelledError:
        if work.is_cancelled:
            raise Interrupted from None
        raise
    finally:
        work.wake_by(None)


@functools.cache
def protect_logging() -> None:
    """Hold back interrupts in every handler of ``logging`` while it handles a record; once for the process.

    A handler takes its lock before the ``try`` that releases it. An exception between the two would make every thread
    that logs wait for ever.
    """
    handle = logging.Handler.handle

    def handle_whole(handler: logging.Handler, record: logging.LogRecord) -> Any:
        with uninterrupted():
            return handle(handler, record)

    logging.Handler.handle = handle_whole  # type: ignore[method-assign, assignment]


def _raise_pending() -> None:
    """Do nothing: an exception that has been set in a thread is raised at its next function call at the latest."""


def _innermost(thread_id: int) -> Any:
    # Before Python 3.12, the garbage collector may start while all threads are stopped for `_current_frames`. A
    # finalizer may then wait for one of them for ever. So garbage collection is off meanwhile; all three functions run
    # in one call of C, or another thread could turn it on in between.
    steps = _WITHOUT_COLLECTOR if gc.isenabled() else _WITHOUT_COLLECTOR[:2]
    _off, frames, *_on = map(functools.partial.__call__, steps)
    return frames.get(thread_id)


_WITHOUT_COLLECTOR: Final[tuple[functools.partial[Any], ...]] = tuple(
    map(functools.partial, (gc.disable, sys._current_frames, gc.enable))
)


def _is_fragile(frame: Any) -> bool:
    if frame is None:
        return True
    module = str(frame.f_globals.get("__name__"))
    return module.startswith(_FRAGILE) or (module == "logging" and frame.f_code.co_name in _FRAGILE_IN_LOGGING)
