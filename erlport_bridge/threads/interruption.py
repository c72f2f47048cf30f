"""Interrupt a function in another thread, by an exception that is raised in this function and nowhere else.

How a thread raises the exception is in ``raising.py``. It does so only while it runs one given function, and never

- after the function has returned: the thread then runs something else, perhaps the next call,
- within :func:`uninterrupted`, where a half-done step would harm others, such as half a frame on the port,
- where a lock or a resource would be left behind (``safe_points.py``).

A blocking function in C (a socket, a long sleep) is not cut short: the exception is raised when it returns. Waiting for
another thread by :func:`wait_for` ends at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

from erlport_bridge.threads.raising import Request, innermost, raiser

_Result = TypeVar("_Result")

# Held to raise an exception in a thread, and by a thread that must not get one any more. One lock for all threads,
# since interrupts are rare. Reentrant, since a finalizer may run while a thread holds it, and may do anything.
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
        *("_began_at", "_is_leaving", "_request", "_shields", "_thread_id", "_wake"),
        *("is_cancelled", "is_pooled", "name", "taken_s"),
    )

    def __init__(self, name: object, *, is_pooled: bool = False) -> None:
        self.name = name
        self.is_pooled = is_pooled
        self.is_cancelled = False
        self.taken_s = 0.0
        self._began_at = 0.0
        self._thread_id: int | None = None
        # Made by the first interrupt.
        self._request: Request | None = None
        self._is_leaving = False
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

    def interrupt(self, *, is_repeated: bool = True) -> bool:
        """Raise :class:`Interrupted` in the function; return whether that was possible at this moment.

        May be called again, if it was not possible or if the function has caught the exception and gone on.

        Args:
            is_repeated: Whether to raise another one if the function has got one already.
        """
        is_asked = self._ask(is_repeated)
        wake = self._wake
        if wake is not None:
            wake()
        return is_asked

    def _ask(self, is_repeated: bool) -> bool:
        with _setting:
            self.is_cancelled = True
            if self._thread_id is None:
                return False
            request = self._request = self._request or Request(
                self._thread_id, Interrupted, _OUTERMOST, self._may_raise
            )
            if request.raised and not is_repeated:
                return False
            if not self._may_raise():
                _raiser.withdraw(request)
                return False
            return _raiser.ask(request)

    def _may_raise(self) -> bool:
        return not self._is_leaving and not self._shields

    @property
    def was_interrupted(self) -> bool:
        """Return whether the exception has been raised, or set."""
        return self._request is not None and self._request.raised > 0

    @property
    def has_ended(self) -> bool:
        """Return whether the function has returned or raised."""
        return self._is_leaving

    def place(self) -> str | None:
        """Return where the function is now, as text for people, or ``None`` if that is unknown."""
        frame = None if self._thread_id is None or self._is_leaving else innermost(self._thread_id)
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
                if self._request is not None:
                    _raiser.withdraw(self._request)
                    # Without the reference back to this object, which would need the garbage collector.
                    self._request.is_possible = _never
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
            request = self._request
            is_next = self.is_cancelled and request is not None and not request.raised and not self._shields
            if is_next and request is not None:
                request.raised += 1
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
def protect_standard_library() -> None:
    """Hold back interrupts in two methods of the standard library; once for the process.

    A handler of ``logging`` takes its lock before the ``try`` that releases it. An exception between the two would make
    every thread that logs wait for ever.

    Before Python 3.13, a new thread has the id of the thread that starts it until it runs, and gets the exception that
    is set for this one. It ends then without a word to its starter, which waits for that for ever: in
    ``ThreadPoolExecutor.submit`` with a lock that all executors share.
    """
    for owner, name in ((logging.Handler, "handle"), (threading.Thread, "start")):
        setattr(owner, name, _whole(getattr(owner, name)))


def _whole(method: Callable[..., _Result]) -> Callable[..., _Result]:
    @functools.wraps(method)
    def run_whole(*arguments: Any) -> _Result:
        with uninterrupted():
            return method(*arguments)

    return run_whole


def _raise_pending() -> None:
    """Do nothing: an exception that has been set in a thread is raised at its next function call at the latest."""


def _never() -> bool:
    return False


def _request_here() -> Request | None:
    work: Work | None = getattr(_here, "work", None)
    return None if work is None else work._request


_OUTERMOST: Final = Work.run.__code__
_raiser: Final = raiser(_request_here, _setting)
