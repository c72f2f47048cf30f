"""Hand work from tasks to threads of the store, and its results back.

``ThreadPoolExecutor`` makes two futures for each function, with locks and conditions of their own. A turn of a
conversation waits for that as long as SQLite takes for the turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

_Result = TypeVar("_Result")
_Ended = Callable[[Any, BaseException | None], None]


class ClosedError(Exception):
    """The threads take no work any more."""


class Threads:
    """Some threads, which begin with the first work, and do it in the order in which it came.

    Args:
        count: How many threads.
        name: Their name.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        # What to run, whether to leave it out, and what to call when it has ended; `None` ends a thread.
        self._work: SimpleQueue[tuple[Callable[[], Any], Callable[[], bool], _Ended] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting: Final = threading.Lock()
        self._is_closed = False

    def begin(self, function: Callable[[], _Result]) -> asyncio.Future[_Result]:
        """Run a function, and return the future of its result; what is cancelled before it has begun is not run.

        Raises:
            ClosedError: :meth:`close` was called.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()

        def ended(result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(_resolve, future, result, error)

        self._put(function, future.cancelled, ended)
        return future

    def run(self, function: Callable[[], _Result]) -> _Result:
        """Run a function, and wait for its result in a thread that may wait; errors as :meth:`begin`."""
        outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._put(function, _never, lambda result, error: outcome.put((result, error)))
        result, error = outcome.get()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def begin_unawaited(self, function: Callable[[], object]) -> None:
        """Run a function whose result nobody needs; errors as :meth:`begin`."""
        self._put(function, _never, lambda *_ended: None)

    def close(self) -> None:
        """End the threads once they have done all work that has come."""
        with self._starting:
            self._is_closed = True
            for _ in self._threads:
                self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, function: Callable[[], Any], is_left_out: Callable[[], bool], ended: _Ended) -> None:
        if not self._threads or self._is_closed:
            self._start()
        self._work.put((function, is_left_out, ended))

    def _start(self) -> None:
        with self._starting:
            if self._is_closed:
                raise ClosedError
            while len(self._threads) < self._count:
                # A daemon: what is not closed keeps no process from its end.
                thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            function, is_left_out, ended = item
            if not is_left_out():
                try:
                    result, error = function(), None
                except BaseException as caught:  # noqa: BLE001 - raised where the result is awaited
                    result, error = None, caught
                ended(result, error)
                # An idle thread must not keep its last result alive.
                del result, error
            del item, function, is_left_out, ended


def _never() -> bool:
    return False


def _resolve(future: asyncio.Future[_Result], result: _Result, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
