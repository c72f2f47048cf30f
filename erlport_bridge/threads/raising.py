"""Raise an exception in a function that another thread runs, at a safe point of it (``safe_points.py``).

There are two ways, because CPython has changed where it raises an exception that another thread has set
(``PyThreadState_SetAsyncExc``). Until Python 3.12 that is where the thread stands, so it is set only when the thread
stands at a safe point. From Python 3.13 on it is one check later, which may be anywhere, also between the ``__enter__``
of a lock and its ``with`` block. There, the thread's functions are observed by ``sys.monitoring`` for a moment, and the
exception is raised by the thread itself.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import CodeType, FrameType
from typing import Any, Final, Protocol

from erlport_bridge.threads.safe_points import after_call, is_fragile, is_indivisible, safe_points, takes_or_gives_back


class Request:
    """The wish for an exception in the function that a thread runs.

    Args:
        thread_id: The thread.
        exception: The class of the exception.
        outermost: The code of the function within which the exception may be raised, in what it calls.
        is_possible: Returns whether the exception may be raised now.

    Attributes:
        raised: How many exceptions have been raised, or set so that CPython raises them.
        asked: How often an exception was asked for. After some seconds it may be raised in a function that takes or
            gives back a resource too: a connection that is opened by polling may take for ever.
    """

    __slots__ = (
        *("asked", "exception", "is_due", "is_possible", "observed", "outermost", "raised", "standing"),
        "thread_id",
    )

    def __init__(
        self, thread_id: int, exception: type[BaseException], outermost: CodeType, is_possible: Callable[[], bool]
    ) -> None:
        self.thread_id = thread_id
        self.exception = exception
        self.outermost = outermost
        self.is_possible = is_possible
        self.raised = 0
        self.asked = 0
        # Of `Monitored`: whether an exception is to be raised, the observed functions by the id of their code, and the
        # call that the thread is in: its frame, and the offset of the instruction after it.
        self.is_due = False
        self.observed: dict[int, CodeType] = {}
        self.standing: tuple[FrameType, int] | None = None


class Raiser(Protocol):
    """A way to raise an exception in another thread; one lock of the caller guards all methods."""

    def ask(self, request: Request) -> bool:
        """Raise one exception at a safe point; return ``False`` if that is not possible at this moment.

        Called again while the exception has not been raised, since the thread may run other functions by then.
        """

    def withdraw(self, request: Request) -> None:
        """Withdraw the exception if it has not been raised yet."""


# How often to look for a safe point at once.
_TRIES: Final = 20
# About three seconds each; see `Request.asked`. The first way is asked more often, as it looks only then.
_PATIENCE_OF_ASYNCHRONOUS: Final = 600
_PATIENCE_OF_MONITORED: Final = 80


class Asynchronous:
    """Sets the exception while the thread stands at a safe point, where CPython then raises it: until Python 3.12."""

    def ask(self, request: Request) -> bool:
        """Set the exception if the thread is at a safe point."""
        # The function must not get two.
        self.withdraw(request)
        request.asked += 1
        # While one is looked at, the thread may have gone on.
        is_set = any(self._try(request) for _ in range(_TRIES))
        request.raised += is_set
        return is_set

    def withdraw(self, request: Request) -> None:
        """Clear an exception that has not been raised yet."""
        if request.raised:
            _set_exception(ctypes.c_ulong(request.thread_id), None)

    def _try(self, request: Request) -> bool:
        frame = innermost(request.thread_id)
        if frame is None or is_fragile(frame) or is_indivisible(frame, request.outermost):
            return False
        offset = frame.f_lasti
        if request.asked < _PATIENCE_OF_ASYNCHRONOUS and (
            offset in safe_points(frame.f_code).unsafe_calls or takes_or_gives_back(frame, request.outermost)
        ):
            return False
        return _set_if_standing(request.thread_id, frame, offset, request.exception)


def _set_if_standing(thread_id: int, frame: FrameType, offset: int, exception: type[BaseException]) -> bool:
    """Set an exception in a thread if it is still at this place.

    All of it is one call of C. Between two instructions of Python the GIL could go to the other thread, which could
    then get the exception wherever it has gone meanwhile. Garbage collection is off for the same reason.
    """
    frames = map(operator.methodcaller("get", thread_id), _call(sys._current_frames))
    has_moved = map(operator.is_not, frames, [frame])
    has_gone_on = map(operator.ne, map(operator.attrgetter("f_lasti"), [frame]), [offset])
    set_it = _call(functools.partial(_set_exception, ctypes.c_ulong(thread_id), ctypes.py_object(exception)))
    passed = list(
        _without_collector(itertools.takewhile(operator.not_, itertools.chain(has_moved, has_gone_on, set_it)))
    )
    # Setting it gives 1, the number of threads, and ends the steps.
    return passed.count(False) == 2


def innermost(thread_id: int) -> FrameType | None:
    """Return the frame of the function that a thread runs now, or ``None`` if there is no such thread."""
    # Before Python 3.12, the garbage collector may start while all threads are stopped for `_current_frames`. A
    # finalizer may then wait for one of them for ever. So garbage collection is off meanwhile; all steps run in one
    # call of C, or another thread could turn it on in between.
    frames: dict[int, FrameType] = next(filter(None, list(_without_collector(_call(sys._current_frames)))))
    return frames.get(thread_id)


def _call(function: Callable[[], Any]) -> Iterator[Any]:
    """Return an iterator that calls a function of C once, without running Python code."""
    return map(functools.partial.__call__, [functools.partial(function)])


def _without_collector(steps: Iterator[Any]) -> Iterator[Any]:
    """Return an iterator over the steps, with garbage collection off; turning it off and on gives ``None``."""
    if not gc.isenabled():
        return steps
    return itertools.chain(_call(gc.disable), steps, _call(gc.enable))


_set_exception: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Monitored:
    """Observes the functions that the thread runs, until it comes to a safe point and raises: from Python 3.13 on.

    Args:
        tool: A free tool id of ``sys.monitoring``.
        current: Returns the request for the calling thread.
        lock: Guards all methods.
    """

    def __init__(self, tool: int, current: Callable[[], Request | None], lock: AbstractContextManager[bool]) -> None:
        self._tool = tool
        self._current = current
        self._lock = lock
        # How many requests observe a function, by the id of its code; `==` would take equal codes for one.
        self._observers: dict[int, int] = {}
        _monitoring.use_tool_id(tool, "erlport_bridge")
        _monitoring.register_callback(tool, _monitoring.events.INSTRUCTION, self._at_instruction)

    def ask(self, request: Request) -> bool:
        """Observe the functions that the thread runs; return ``False`` if none of them may get the exception."""
        frame = innermost(request.thread_id)
        following = None if frame is None or is_fragile(frame) else after_call(frame)
        request.standing = None if frame is None or following is None else (frame, following)
        codes: dict[int, CodeType] = {}
        while frame is not None and frame.f_code is not request.outermost:
            if not is_fragile(frame):
                codes[id(frame.f_code)] = frame.f_code
            frame = frame.f_back
        self._observe(request, codes)
        request.asked += 1
        request.is_due = bool(codes)
        return request.is_due

    def withdraw(self, request: Request) -> None:
        """Observe the functions no longer."""
        request.is_due = False
        request.standing = None
        self._observe(request, {})

    def _observe(self, request: Request, codes: dict[int, CodeType]) -> None:
        """Observe these functions for the request, and no others."""
        before, request.observed = request.observed, codes
        for key, code in codes.items():
            if key not in before:
                safe_points(code)  # read here, once, and not by each thread that runs this function
                self._observers[key] = self._observers.get(key, 0) + 1
                if self._observers[key] == 1:
                    _monitoring.set_local_events(self._tool, code, _monitoring.events.INSTRUCTION)
        for key, code in before.items():
            if key not in codes:
                self._observers[key] -= 1
                if not self._observers[key]:
                    del self._observers[key]
                    _monitoring.set_local_events(self._tool, code, _monitoring.events.NO_EVENTS)

    def _at_instruction(self, code: CodeType, offset: int) -> None:
        """Raise the exception, if one is due in the calling thread and this instruction of it is a safe point."""
        request = self._current()
        if request is None or not request.is_due:
            return
        frame = sys._getframe(1)
        if offset not in safe_points(code).repeated and request.standing != (frame, offset):
            return
        with self._lock:
            if not request.is_due or not request.is_possible():
                return
            if is_indivisible(frame, request.outermost):
                return
            if request.asked < _PATIENCE_OF_MONITORED and takes_or_gives_back(frame, request.outermost):
                return
            self.withdraw(request)
            request.raised += 1
        raise request.exception


# Missing before Python 3.12.
_monitoring: Final[Any] = getattr(sys, "monitoring", None)


def raiser(current: Callable[[], Request | None], lock: AbstractContextManager[bool]) -> Raiser:
    """Return the way for this Python; ``current`` and ``lock`` as for :class:`Monitored`."""
    if sys.version_info >= (3, 13):
        # Debuggers, coverage and profilers have the other ids.
        free = [tool for tool in (4, 3) if _monitoring.get_tool(tool) is None]
        if free:
            return Monitored(free[0], current, lock)
    return Asynchronous()
