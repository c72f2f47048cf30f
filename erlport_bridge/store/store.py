"""Run a store's work in threads of its own, within the deadline of the call that waits for it.

Work is a function of :class:`.rows.Rows`. SQLite has one writer at a time, so its writes have one thread; its reads do
not wait for them. Nothing runs on the event loop but :meth:`Store.glance`, as long as that is quick.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.request import ends_at, within
from erlport_bridge.store.address import POSTGRESQL, SQLITE, Address
from erlport_bridge.store.hand_over import ClosedError, Threads
from erlport_bridge.tracing import passed, span

if TYPE_CHECKING:
    from erlport_bridge.store.database import Database
    from erlport_bridge.store.rows import Rows

_Result = TypeVar("_Result")

# A call without a deadline does not wait longer than this.
_LONGEST_S: Final = 30.0
# Work that waits for a thread. More of it could not be done in time.
_MAX_WAITING: Final = 2_000
_POSTGRESQL_THREADS: Final = 4
# Tells the cancellation at the deadline from that of the whole call.
_LATE: Final = "the store has not answered in time"
# A glance that takes longer shows that the disk, the server or the machine is busy. A thread makes the next ones for a
# hundred times as long, so that slow ones have at most a hundredth of the event loop's time.
_QUICK_S: Final = {SQLITE: 0.001, POSTGRESQL: 0.0005}
_BUSY_TIMES: Final = 100
_BUSY_MOST_S: Final = 10.0
# A probe for `ping` is not begun more often.
_PROBE_S: Final = 1.0


class Store:
    """One store, which is opened when it is first used.

    Args:
        address: Where it is.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._database: Database | None = None
        self._opening = threading.Lock()
        count = 1 if address.database == SQLITE else _POSTGRESQL_THREADS
        self._readers = Threads(count, "store-reader")
        self._writers = Threads(count, "store-writer")
        self._waiting = 0
        self._state: dict[str, Any] = {"ready": None}
        # When work has failed last.
        self._failed_at = 0.0
        self._probed_at = 0.0
        self._glances_from = 0.0

    async def read(self, work: Callable[[Rows], _Result], left_s: float | None = None) -> _Result:
        """Run work that only reads, and return its result; errors as :meth:`write`."""
        return await self._run("read", self._readers, self._read, work, left_s)

    async def glance(self, work: Callable[[Rows], _Result], left_s: float | None = None) -> _Result:
        """Run work that reads a few rows by their keys, and return its result, not ``None``; errors as :meth:`write`.

        Such a read of a file, or of a server that is near, takes less time than to hand it to a thread and back, so it
        is made at once. It waits for no lock, and for a server no longer than a millisecond.
        """
        began = time.monotonic()
        if self._database is not None and began >= self._glances_from:
            try:
                found = self._observed(lambda database: database.glance(work))
            except OperationError as error:
                passed("store", "read", began, error)
                raise
            took = time.monotonic() - began
            if found is None or took > _QUICK_S[self.address.database]:
                self._glances_from = began + took + min(took * _BUSY_TIMES, _BUSY_MOST_S)
            if found is not None:
                passed("store", "read", began)
                return found
        return await self.read(work, left_s)

    async def write(self, work: Callable[[Rows], _Result], left_s: float | None = None) -> _Result:
        """Run work in one transaction, and return its result once it is stored.

        Args:
            work: Changes rows.
            left_s: How long the caller waits, if its deadline is not that of the running request.

        Raises:
            OperationError: Of kind ``store``: the database failed, and nothing is stored; unless its connection broke
                while the transaction ended. Of kind ``timeout``, in stage ``store``: no answer by the deadline; the
                work may still be stored.
        """
        return await self._run("write", self._writers, self._write, work, left_s)

    async def delete(self, work: Callable[[Rows], _Result]) -> _Result:
        """Run work that makes room, as :meth:`write` does; in a file also when the disk is full."""
        return await self._run("write", self._writers, self._delete, work, None)

    async def change(self, work: Callable[[Rows], _Result], left_s: float | None = None) -> _Result:
        """Run work that changes rows by one statement, as :meth:`write` does, without the cost of a transaction."""
        return await self._run("change", self._writers, self._change, work, left_s)

    def read_in_thread(self, work: Callable[[Rows], _Result]) -> _Result:
        """Do what :meth:`read` does, from a thread that may wait."""
        return self._readers.run(partial(self._read, work))

    def change_in_thread(self, work: Callable[[Rows], _Result]) -> _Result:
        """Do what :meth:`change` does, from a thread that may wait."""
        return self._writers.run(partial(self._change, work))

    async def transfer(self, work: Callable[[Database, threading.Event], _Result]) -> _Result:
        """Run work on the whole database in a thread of its own, for as long as it takes.

        If the caller is cancelled, the event is set, and the work ends as soon as it sees that.
        """
        stop = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(None, self._observed, lambda database: work(database, stop))
        try:
            return await future
        finally:
            stop.set()

    def describe(self) -> dict[str, Any]:
        """Return the address and whether the store was well when it was last used, and ask it anew in its thread.

        ``ready`` is ``None`` for a store that nobody has used yet, and that needs no server.
        """
        state = {"address": self.address.shown, **self._state}
        if (self._database is not None or self.address.path is None) and time.monotonic() - self._probed_at > _PROBE_S:
            self._probed_at = time.monotonic()
            self._readers.begin_unawaited(self._probe)
        return state

    def close(self) -> None:
        """Close the store; work that has begun is done before."""
        self._readers.close()
        self._writers.close()
        if self._database is not None:
            self._database.close()

    def leave(self) -> None:
        """Prepare for the end of the process; see :meth:`.database.Database.leave`."""
        if self._database is not None:
            self._database.leave()

    async def _run(
        self,
        name: str,
        threads: Threads,
        function: Callable[[Callable[[Rows], _Result]], _Result],
        work: Callable[[Rows], _Result],
        left_s: float | None,
    ) -> _Result:
        if self._waiting >= _MAX_WAITING:
            message = f"{self._waiting} calls wait for the store at {self.address.shown}"
            raise OperationError("overloaded", message, stage="store", retry_after=1)
        end = ends_at.get()
        if left_s is None:
            left_s = _LONGEST_S if end is None else end - time.monotonic()
        self._waiting += 1
        try:
            with within("store"), span("store", name):
                future = self._begun(threads, function, work)
                # A timer costs a quarter of `asyncio.wait`. Work that no thread has begun is not begun any more.
                timer = future.get_loop().call_later(max(0.0, min(left_s, _LONGEST_S)), future.cancel, _LATE)
                try:
                    return await future
                except asyncio.CancelledError as cancelled:
                    if cancelled.args != (_LATE,):
                        raise
                    raise self._late(left_s) from None
                finally:
                    timer.cancel()
        finally:
            self._waiting -= 1

    def _begun(
        self,
        threads: Threads,
        function: Callable[[Callable[[Rows], _Result]], _Result],
        work: Callable[[Rows], _Result],
    ) -> asyncio.Future[_Result]:
        try:
            return threads.begin(partial(function, work))
        except ClosedError:
            raise OperationError("store", f"the store at {self.address.shown} is closed", stage="store") from None

    def _late(self, left_s: float) -> OperationError:
        message = f"the store at {self.address.shown} did not answer in time; what it was asked for may still be done"
        if left_s < _LONGEST_S:
            return OperationError("timeout", message, stage="store")
        return OperationError("store", message, retryable=True, stage="store")

    def _read(self, work: Callable[[Rows], _Result]) -> _Result:
        return self._observed(lambda database: database.read(work))

    def _write(self, work: Callable[[Rows], _Result]) -> _Result:
        return self._observed(lambda database: database.write(work))

    def _delete(self, work: Callable[[Rows], _Result]) -> _Result:
        return self._observed(lambda database: database.write(work, deletes=True))

    def _change(self, work: Callable[[Rows], _Result]) -> _Result:
        return self._observed(lambda database: database.change(work))

    def _probe(self) -> None:
        try:
            self._read(lambda rows: rows.ask())
        except OperationError:
            return  # `_observed` has recorded it

    def _observed(self, run: Callable[[Database], _Result]) -> _Result:
        """Run work on the database, and record whether the database is well."""
        began = time.monotonic()
        try:
            result = run(self._open())
        except OperationError as error:
            if error.kind in ("store", "missing_dependency"):
                self._state, self._failed_at = {"ready": False, "error": message_of(error)}, time.monotonic()
            raise
        # A thread may come later with what was true before.
        if began >= self._failed_at:
            self._state = {"ready": True}
        return result

    def _open(self) -> Database:
        if self._database is not None:
            return self._database
        # Imported here, since the import takes 0.2 s and most calls need no store.
        from erlport_bridge.store.database import Database

        with self._opening:
            if self._database is None:
                self._database = Database(self.address)
        return self._database
