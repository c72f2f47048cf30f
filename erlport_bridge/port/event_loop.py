"""Run coroutine functions on an event loop in a thread of its own, which may also read calls while the loop waits."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from erlport_bridge import request
from erlport_bridge.errors import message_of
from erlport_bridge.threads import Threads

# A function that has returned within _QUICK_S for _QUICK_CALLS calls in a row runs on the loop itself. A call that
# takes longer than _NOT_QUICK_S resets the count.
_QUICK_S: Final = 0.0002
_QUICK_CALLS: Final = 3
_NOT_QUICK_S: Final = 0.001

# Functions of these modules may run on the loop when they have been quick.
_quick_modules: set[str] = set()


def run_in_place(*modules: str) -> None:
    """Let functions of these modules that coroutines hand to threads run on the loop while they are quick.

    Meant for libraries that hand functions to threads although these rarely take long: a hand-over and back takes a
    tenth of a millisecond. Do not name modules whose functions wait for other threads or processes, however quick they
    have been.
    """
    _quick_modules.update(modules)


def start(threads: Threads) -> Loop:
    """Return a loop that runs in a daemon thread until the process ends; coroutines hand work to ``threads``."""
    loop = Loop()
    loop.set_default_executor(threads)
    request.weight.use(Threads(max_threads=request.weight.MOST_AT_ONCE, is_reported=False))
    threading.Thread(target=_run, args=(loop,), name="loop", daemon=True).start()
    return loop


class PortReader(Protocol):
    """The reader of calls in the thread of a loop."""

    def busy_wait(self, worked_s: float) -> None:
        """Busy-wait a moment for a call, if that is worth it after so many seconds of work."""

    def receive(self) -> bool:
        """Receive the calls that have come; return ``False`` if another thread leads now."""

    def is_busy(self) -> bool:
        """Return whether received calls have given the loop something to run since the last call of this method."""

    def begin(self) -> None:
        """Record that the loop runs its callbacks now, and does not wait for calls."""

    def end(self) -> bool:
        """Record that the loop has run its callbacks; return ``False`` if another thread leads since."""


class CallSelector(selectors.DefaultSelector):
    """A selector that waits for its loop's events, and for calls of the port while the loop's thread leads.

    So a call that comes while the loop waits is started by the thread that will run it. With a reader in another
    thread, each call would wake two threads. The reader occupies its core at that moment, so the loop would run on
    another core with cold caches: a prediction takes half as long again there.

    Attributes:
        is_waiting: Whether the loop waits for events while another thread reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_waiting = False
        # Since when the loop, if it reads, has not waited.
        self._woke_at = 0.0
        self._reader: PortReader | None = None
        self._descriptor = -1

    def lead(self, descriptor: int, reader: PortReader) -> None:
        """Let the loop's thread lead: read calls with ``reader`` from the loop's next wait on.

        Must be called in the loop's thread, after :meth:`PortReader.begin` of ``reader``.
        """
        if self._reader is None:
            self._descriptor, self._reader = descriptor, reader
            self.register(descriptor, selectors.EVENT_READ)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events as the base class does, and receive the calls that come meanwhile."""
        reader = self._reader
        if reader is not None and reader.end():
            events = self._select_reading(reader, timeout)
            if self._reader is not None:
                reader.begin()
            return events
        if reader is not None:
            self._follow()
        self.is_waiting = timeout is None or timeout > 0
        try:
            return super().select(timeout)
        finally:
            self.is_waiting = False

    def _select_reading(self, reader: PortReader, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        ends_at = None if timeout is None else time.monotonic() + timeout
        while True:
            waits = timeout is None or timeout > 0
            if waits:
                reader.busy_wait(time.monotonic() - self._woke_at)
            events = super().select(timeout)
            if waits:
                self._woke_at = time.monotonic()
            others = [event for event in events if event[0].fd != self._descriptor]
            if len(others) == len(events):
                return events
            if not reader.receive():
                self._follow()
                return others
            if others or reader.is_busy():
                return others
            if ends_at is not None:
                timeout = ends_at - time.monotonic()
                if timeout <= 0:
                    return others

    def _follow(self) -> None:
        self.unregister(self._descriptor)
        self._reader = None


class Loop(asyncio.SelectorEventLoop):
    """An event loop that runs quick functions itself instead of handing them to a thread, see :func:`run_in_place`.

    Attributes:
        waiting: The selector of the loop.
        thread_id: The id of the loop's thread, once the thread runs.
    """

    def __init__(self) -> None:
        self.waiting = CallSelector()
        self.thread_id: int | None = None
        super().__init__(self.waiting)
        # How many calls in a row of a function were quick.
        self._quick_calls: dict[Callable[..., Any], int] = {}

    def run_in_executor(  # type: ignore[override]  # the types of asyncio's own stubs differ between versions
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread, or at once in the loop's thread; return its future."""
        function = _handed_over(func) if executor is None and not args else None
        if function is None:
            return super().run_in_executor(executor, func, *args)
        if request.weight.of_request():
            # How long it takes for something heavy says nothing about the usual. Tools may hold all other threads.
            return super().run_in_executor(request.weight.executor(), func)
        timed = functools.partial(self._timed, function, func)
        if not self._is_quick(function):
            return super().run_in_executor(None, timed)
        future = self.create_future()
        try:
            future.set_result(timed())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            future.set_exception(error)
        return future

    def in_place(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Return what calls a function in the loop's thread; ``None``: it is to run in another thread.

        Unlike :meth:`run_in_executor` this takes no future, for which the caller would wait until the next turn of the
        loop.
        """
        is_quick = getattr(function, "__module__", None) in _quick_modules and self._is_quick(function)
        return functools.partial(self._timed, function, function) if is_quick else None

    def _is_quick(self, function: Callable[..., Any]) -> bool:
        return self._quick_calls.get(function, 0) >= _QUICK_CALLS

    def _timed(self, function: Callable[..., Any], call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        started_at = time.perf_counter()
        try:
            return call(*args, **named)
        finally:
            taken_s = time.perf_counter() - started_at
            if taken_s < _QUICK_S:
                self._quick_calls[function] = self._quick_calls.get(function, 0) + 1
            elif taken_s > _NOT_QUICK_S:
                self._quick_calls[function] = 0


def _handed_over(call: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the function that ``asyncio.to_thread`` has wrapped, or ``None`` if it may not run in place."""
    if type(call) is not functools.partial or not call.args:
        return None
    if type(getattr(call.func, "__self__", None)) is not contextvars.Context:
        return None
    function = call.args[0]
    return function if getattr(function, "__module__", None) in _quick_modules else None


def _run(loop: Loop) -> None:
    loop.thread_id = threading.get_ident()
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - other calls on the loop are still pending
            # asyncio lets SystemExit and KeyboardInterrupt of a task stop the whole loop, after the task has got them.
            sys.stderr.write(f"erlport_bridge: a task ended with {type(error).__name__}: {message_of(error)}\n")
