"""The event loop on which coroutine functions run, in a thread of its own; while it waits, it may read calls too."""

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

from erlport_bridge.errors import message_of
from erlport_bridge.threads import Threads

# A function that has returned within this time so often in turn runs on the loop itself; one call that takes longer
# than the second time, and it must prove itself anew.
_QUICK_S: Final = 0.0002
_QUICK_CALLS: Final = 3
_NOT_QUICK_S: Final = 0.001

# Functions of these modules may run on the loop when they have been quick.
_hasty_modules: set[str] = set()


def run_in_place(*modules: str) -> None:
    """Let functions of these modules that are handed to threads run on the loop while they are quick.

    For libraries that hand over what may take long and hardly ever does: a hand-over there and back takes a tenth of a
    millisecond. What waits for others to do something is not to be named here, however quick it was so far.
    """
    _hasty_modules.update(modules)


def start(threads: Threads) -> Loop:
    """Give a loop that runs, until the process ends, in a daemon thread; coroutines hand work to ``threads``."""
    loop = Loop()
    loop.set_default_executor(threads)
    threading.Thread(target=_run, args=(loop,), name="loop", daemon=True).start()
    return loop


class PortReader(Protocol):
    """Reads calls in the thread of a loop."""

    def wait_awake(self) -> None:
        """Wait a moment for a call without sleeping, if it is worth it."""

    def receive(self) -> bool:
        """Take in what has come; ``False`` if another thread reads on."""

    def is_busy(self) -> bool:
        """Tell whether what was taken in has something for the loop to run; since it was last asked."""

    def begin(self) -> None:
        """Note that the loop runs what it has to run, and waits for no calls."""

    def end(self) -> bool:
        """Note that it has run it; ``False`` if that took so long that another thread reads."""


class CallSelector(selectors.DefaultSelector):
    """Waits for what its loop waits for, and for calls while the loop's thread reads them.

    A call that comes while the loop waits is so begun by the thread that will run it. With a reader in another thread
    each call would wake two threads, and since the reader occupies its core at that moment, the loop would get another
    one whose caches hold nothing of it: a prediction takes half as long again there.

    Attributes:
        is_waiting: The loop waits for something, and another thread reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_waiting = False
        self._reader: PortReader | None = None
        self._descriptor = -1

    def lead(self, descriptor: int, reader: PortReader) -> None:
        """Have the loop's thread read calls from its next wait on, as ``reader`` has begun; to be called there."""
        if self._reader is None:
            self._descriptor, self._reader = descriptor, reader
            self.register(descriptor, selectors.EVENT_READ)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Do as the class above, and take in the calls that come meanwhile."""
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
            if timeout is None or timeout > 0:
                reader.wait_awake()
            events = super().select(timeout)
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
    """A loop that hands nothing to a thread that takes less time than handing it over, see :func:`run_in_place`.

    Attributes:
        waiting: How it waits.
        thread_id: Of its thread, once that runs.
    """

    def __init__(self) -> None:
        self.waiting = CallSelector()
        self.thread_id: int | None = None
        super().__init__(self.waiting)
        # How often in turn a function was quick.
        self._quick_calls: dict[Callable[..., Any], int] = {}

    def run_in_executor(  # type: ignore[override]  # the types of asyncio's own stubs differ between versions
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread, or at once; give its future."""
        function = _handed_over(func) if executor is None and not args else None
        if function is None:
            return super().run_in_executor(executor, func, *args)
        timed = functools.partial(self._timed, function, func)
        if self._quick_calls.get(function, 0) < _QUICK_CALLS:
            return super().run_in_executor(None, timed)
        future = self.create_future()
        try:
            future.set_result(timed())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
            future.set_exception(error)
        return future

    def _timed(self, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        started_at = time.perf_counter()
        try:
            return call()
        finally:
            taken_s = time.perf_counter() - started_at
            if taken_s < _QUICK_S:
                self._quick_calls[function] = self._quick_calls.get(function, 0) + 1
            elif taken_s > _NOT_QUICK_S:
                self._quick_calls[function] = 0


def _handed_over(call: Callable[..., Any]) -> Callable[..., Any] | None:
    """Give the function that ``asyncio.to_thread`` has wrapped, if it may run in place."""
    if type(call) is not functools.partial or not call.args:
        return None
    if type(getattr(call.func, "__self__", None)) is not contextvars.Context:
        return None
    function = call.args[0]
    return function if getattr(function, "__module__", None) in _hasty_modules else None


def _run(loop: Loop) -> None:
    loop.thread_id = threading.get_ident()
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - the other calls on the loop are still owed their answers
            # asyncio lets SystemExit and KeyboardInterrupt of a task stop the whole loop, after the task has them.
            sys.stderr.write(f"erlport_bridge: a task ended with {type(error).__name__}: {message_of(error)}\n")
