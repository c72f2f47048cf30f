"""A function that runs in some thread, and an exception that is raised in it there and nowhere else.

CPython can set an exception that a thread raises as soon as it runs Python code again
(``PyThreadState_SetAsyncExc``). Here it is only set while the thread runs one certain function, and never

- after the function has returned: the thread does something else then, the next call for one,
- within :func:`uninterrupted`, where half of what is done would harm others, such as half a frame on the port,
- in code that holds a lock of the whole process for a moment without a ``with`` (``logging``, the import system).

A function in C that blocks (a socket, a long sleep) ends when it would have ended, and then the exception is raised.
Waiting for another thread by :func:`wait_for` ends at once.
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

# By the names of modules: in them the exception is not raised. What they call may raise it.
_FRAGILE: Final = (
    *("importlib._bootstrap", "subprocess"),
    *("erlport_bridge.port.", "erlport_bridge.term.", "erlport_bridge.threads."),
    # Half a count would stay for ever.
    "erlport_bridge.counting.",
)
# Functions of `logging` that take a lock before the `try` that gives it back; see also `protect_logging`.
_FRAGILE_IN_LOGGING: Final = frozenset(
    {"handle", "acquire", "release", "flush", "close", "isEnabledFor", "getLogger", "_acquireLock", "_releaseLock"}
)

_set_exception: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
# Held to set an exception, and by a thread where none may be set in it any more; one for all, as hardly any work is
# interrupted. It may be taken twice by one thread: a finalizer that runs meanwhile may do anything.
_setting: Final = threading.RLock()
# The work that this thread runs.
_here = threading.local()


class Interrupted(BaseException):
    """Raised in a thread whose work nobody waits for any more. No ``Exception``: what takes those goes on with them."""


class Work:
    """One function in one thread; :meth:`run` there, :meth:`interrupt` from any other.

    Attributes:
        name: Of the function, for people; or what gives it.
        is_pooled: The thread is one of a pool's.
        is_cancelled: It has been interrupted, or will be as soon as it begins.
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
            Interrupted: It has been interrupted; when this is raised, nothing can come any more.
            BaseException: What the function raises.
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
                # Seen by `interrupt`, so that one exception at most can be raised from here on.
                self._is_leaving = True
                self._leave()
        except Interrupted:
            self._leave()
            raise

    def interrupt(self) -> bool:
        """Have :class:`Interrupted` raised in the function; tells whether that was possible at this moment.

        May be called again, if it was not possible or if the function has taken the exception and gone on.
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
                # One that has not been raised yet must not be raised beside the next.
                _set_exception(ctypes.c_ulong(self._thread_id), None)
            if self._is_leaving or self._shields or _is_fragile(_innermost(self._thread_id)):
                return False
            self._sent += 1
            _set_exception(ctypes.c_ulong(self._thread_id), ctypes.py_object(Interrupted))
            return True

    @property
    def was_interrupted(self) -> bool:
        """Tell whether the exception has been set."""
        return self._sent > 0

    @property
    def has_ended(self) -> bool:
        """Tell whether the function has returned or raised."""
        return self._is_leaving

    def place(self) -> str | None:
        """Give where the function is now, for people."""
        frame = None if self._thread_id is None or self._is_leaving else _innermost(self._thread_id)
        if frame is None or frame.f_globals is globals():  # a function in C
            return None
        return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"

    def _leave(self) -> None:
        self._is_leaving = True
        self.taken_s = time.perf_counter() - self._began_at
        # Whoever interrupts says so first, and then looks whether the thread is leaving: one of the two sees the other.
        if self.is_cancelled:
            with _setting:
                if self._sent:
                    _set_exception(ctypes.c_ulong(threading.get_ident()), None)
        _here.work = None

    def wake_by(self, wake: Callable[[], object] | None) -> None:
        """Say what ends the wait that begins in the function now; ``None``: it waits no more."""
        self._wake = wake
        if wake is not None and self.is_cancelled:
            wake()

    def shield(self) -> None:
        """Have nothing raised in this thread until :meth:`unshield`; what is on its way is raised here."""
        shielded = False
        try:
            with _setting:
                self._shields += 1
                shielded = True
            _let_come()
        except Interrupted:
            if shielded:
                self._shields -= 1
            raise

    def unshield(self) -> None:
        """End what :meth:`shield` has begun; raises :class:`Interrupted` if that was wanted meanwhile."""
        with _setting:
            self._shields -= 1
            is_next = self.is_cancelled and not self._sent and not self._shields
            self._sent += is_next
        if is_next:
            raise Interrupted


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done within is done as a whole; an interruption comes afterwards."""
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
    """Wait for what another thread does; when the work of this one is interrupted, the future is cancelled.

    Raises:
        Interrupted: It was.
        BaseException: The future's.
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
    """Have every handler of ``logging`` handle a record as a whole; once for the process.

    It takes its lock before the ``try`` that gives it back: an exception between the two would have every thread that
    logs wait for ever.
    """
    handle = logging.Handler.handle

    def handle_whole(handler: logging.Handler, record: logging.LogRecord) -> Any:
        with uninterrupted():
            return handle(handler, record)

    logging.Handler.handle = handle_whole  # type: ignore[method-assign, assignment]


def _let_come() -> None:
    """Do nothing: an exception that has been set for a thread is raised at the latest where it calls a function."""


def _innermost(thread_id: int) -> Any:
    # Before Python 3.12 the collector may begin while all threads are held for this, and what it calls may wait for one
    # of them, for ever. So it is off meanwhile; all in one call of C, or another thread could turn it on in between.
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
