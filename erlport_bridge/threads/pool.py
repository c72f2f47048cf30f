"""Run blocking work in a bounded thread pool that replaces stuck threads."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from erlport_bridge import request
from erlport_bridge.request import FairQueue
from erlport_bridge.threads.durations import Durations
from erlport_bridge.threads.interruption import Interrupted, Work, protect_standard_library
from erlport_bridge.threads.stuck import DEFAULT_LOST_AFTER_S, NoThreadError, StuckThreads, name_of

_Result = TypeVar("_Result")

#: Largest number of working threads; stuck threads do not count.
DEFAULT_MAX_THREADS: Final = 64
#: Largest number of stuck threads that are replaced.
DEFAULT_MAX_STUCK: Final = 32
#: Largest number of queued tasks, which wait for a thread.
DEFAULT_MAX_QUEUED: Final = 1_024

# How often the queued tasks are compared with how long tasks take.
_CHECK_S: Final = 0.25


class Task(Future[_Result]):
    """A future of submitted work; its :meth:`cancel` also interrupts work that runs.

    Attributes:
        work: The function as interruptible work.
        caller: Whose task it is, for a fair share of the threads.
        ends_at: When the budget of its request ends; ``None``: never.
    """

    @functools.cached_property
    def name(self) -> str:
        """The name of the function, without the wrappers around it."""
        return name_of(self.work.name)

    def __init__(
        self, function: Callable[[], _Result], stuck: StuckThreads, unqueue: Callable[[Task[_Result]], None]
    ) -> None:
        super().__init__()
        self.work = Work(function, is_pooled=True)
        self._function = function
        self._stuck = stuck
        self._request_id = request.request_id.get()
        self.caller = request.caller.get()
        self.ends_at = request.ends_at.get()
        self._unqueue = unqueue
        # The set of queued tasks of the request that submitted this one.
        self._queued = request.queued.get()
        if self._queued is not None:
            self._queued.add(self)

    def cancel(self) -> bool:
        """Cancel the task if it has not begun, else interrupt it; return ``False`` if it has begun."""
        if super().cancel():
            self._unqueue(self)
            self.leave_queue()
            return True
        self._stuck.interrupt(self.work, self._request_id)
        return False

    def refuse(self, error: NoThreadError) -> None:
        """Raise an error where a task is awaited that has not begun, and never will."""
        if self.set_running_or_notify_cancel():
            self.leave_queue()
            self.set_exception(error)

    def run(self) -> None:
        """Run the task in the calling thread."""
        if not self.set_running_or_notify_cancel():
            return
        self.leave_queue()
        try:
            result = self.work.run(self._function)
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            self._end()
            self.set_exception(error)
        else:
            self._end()
            self.set_result(result)

    def _end(self) -> None:
        if self.work.is_cancelled:
            self._stuck.ended(self.work)

    def leave_queue(self) -> None:
        """Record that the task does not wait for a thread any more."""
        if self._queued is not None:
            self._queued.discard(self)


class _Worker:
    """The place where an idle thread waits for its next task.

    Each idle thread has a lock of its own. With one condition for all, each thread that wakes would have to wait for
    the shared lock again.
    """

    def __init__(self) -> None:
        self._has_task = threading.Lock()
        self._has_task.acquire()
        self._tasks: list[Task[Any]] = []

    def give(self, task: Task[Any]) -> None:
        """Wake the idle thread with a task; call this once for each time that the thread is idle."""
        self._tasks.append(task)
        self._has_task.release()

    def taken(self) -> Task[Any]:
        """Wait for a task and return it."""
        self._has_task.acquire()
        return self._tasks.pop()


class Threads(ThreadPoolExecutor):
    """A thread pool with at most ``max_threads`` working threads; stuck threads do not count.

    It is the default executor of an event loop (``asyncio.to_thread``), which accepts only a ``ThreadPoolExecutor``.
    From this base class it uses nothing but the type. When a coroutine is cancelled, for example at its deadline, the
    task that it awaits is interrupted.

    Callers take turns: tasks that wait for a thread are served in a :class:`FairQueue`. A task that is likely to get
    its thread too late, by how long such tasks have taken lately, is refused at once.

    Args:
        max_threads: Largest number of working threads.
        max_stuck: Largest number of stuck threads that are replaced; further stuck threads count as working.
        max_queued: Largest number of queued tasks.
        lost_after_s: After how many seconds an interrupted thread that goes on is lost.
        is_reported: Whether :func:`report` tells of this pool.
    """

    def __init__(
        self,
        max_threads: int = DEFAULT_MAX_THREADS,
        *,
        max_stuck: int = DEFAULT_MAX_STUCK,
        max_queued: int = DEFAULT_MAX_QUEUED,
        lost_after_s: float = DEFAULT_LOST_AFTER_S,
        is_reported: bool = True,
    ) -> None:
        super().__init__(max_threads)
        protect_standard_library()
        self._max_threads = max_threads
        self._max_queued = max_queued
        self.stuck = StuckThreads(max_stuck, self._start_missing, self._none_free_s, lost_after_s)
        # Guards all fields below. Tasks are queued only while no thread is idle and no more threads may be started.
        self._lock = threading.Lock()
        self._tasks: FairQueue[Task[Any]] = FairQueue()
        self._durations = Durations()
        self._checked_at = 0.0
        self._idle: list[_Worker] = []
        self._running = 0
        self._started = 0
        # When a thread was free for the last time.
        self._free_at = time.monotonic()
        if is_reported:
            global _last_made
            _last_made = self

    def submit(self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Task[_Result]:
        """Run a function as soon as a thread is free; return its task, whose :meth:`Task.cancel` interrupts it.

        Raises:
            NoThreadError: The queue is full, the task would begin too late, or all threads are lost in work that does
                not end.
        """
        call = partial(function, *args, **kwargs)
        if self.stuck.are_too_many_lost(self._max_threads):
            raise NoThreadError(
                f"all threads are stuck in work that does not end: {self.stuck.count()}; "
                "start python anew, and give that work a time limit of its own"
            )
        bound = self._bound()
        worker = left_out = None
        with self._lock:
            is_missing = not self._idle and self._running < bound
            task = Task(call, self.stuck, self._unqueue)
            if not self._idle and not is_missing:
                left_out = self._make_room(task)
            if self._idle:
                worker = self._idle.pop()
            elif is_missing:
                self._running += 1
            else:
                self._tasks.add(task.caller, task)
            if worker is not None or is_missing:
                self._free_at = time.monotonic()
        if worker is not None:
            worker.give(task)
        elif is_missing:
            self._start(task)
        if left_out is not None:
            left_out.refuse(self._no_room())
        return task

    def _make_room(self, task: Task[Any]) -> Task[Any] | None:
        """Make room in the queue for a task; return the task of another caller that must leave it, if any.

        Raises:
            NoThreadError: There is no room for the task, or it would begin too late.
        """
        try:
            if task.ends_at is not None:
                self._durations.check(task, self._tasks.ahead_of(task.caller), self._max_threads)
            if len(self._tasks) < self._max_queued:
                return None
            left_out = self._tasks.make_room_for(task.caller)
            if left_out is None:
                raise self._no_room()
        except NoThreadError:
            task.leave_queue()
            raise
        return left_out

    def _no_room(self) -> NoThreadError:
        return NoThreadError(
            f"all threads are busy ({self._max_threads}), and as much waits for one as may ({self._max_queued})"
        )

    def _refuse_late(self) -> None:
        """Refuse the queued tasks that are likely to get their thread too late."""
        now = time.monotonic()
        # The first of tasks that end together may not say enough yet: the next ones must not be too early to look.
        if not self._durations.are_known or now - self._checked_at < _CHECK_S:
            return
        self._checked_at = now
        with self._lock:
            late = self._durations.late(self._tasks.in_order(), self._max_threads) if self._tasks else []
            for task, _ in late:
                self._tasks.remove(task.caller, task)
        for task, error in late:
            task.refuse(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the threads run until the end of the process."""

    def report(self) -> dict[str, int]:
        """Return the numbers of ``busy`` threads, ``queued`` tasks, ``stuck`` threads and ``interrupted`` work."""
        with self._lock:
            counts = {"busy": self._running - len(self._idle), "queued": len(self._tasks)}
        return {**counts, "stuck": self.stuck.count(), "interrupted": self.stuck.interrupted}

    def _unqueue(self, task: Task[Any]) -> None:
        with self._lock:
            self._tasks.remove(task.caller, task)

    def _start_missing(self) -> None:
        """Start threads for queued tasks, as far as the bound allows."""
        bound = self._bound()
        is_started = True
        while is_started:
            with self._lock:
                if not self._tasks or self._running >= bound:
                    return
                self._running += 1
                self._free_at = time.monotonic()
                task = self._tasks.take()
            is_started = self._start(task)

    def _start(self, task: Task[Any]) -> bool:
        """Start a thread, already counted as running, with its first task; return ``False`` if that is impossible."""
        self._started += 1
        try:
            threading.Thread(target=self._work, args=(task,), name=f"call-{self._started}", daemon=True).start()
        except RuntimeError:
            # The system allows no more threads. The running threads work off the queue, unless there are none.
            with self._lock:
                self._running -= 1
                if not self._running:
                    raise
                worker = self._idle.pop() if self._idle else None
                if worker is None:
                    self._tasks.put_back(task.caller, task)
            if worker is not None:
                worker.give(task)
            return False
        return True

    def _work(self, task: Task[Any] | None) -> None:
        worker = _Worker()
        try:
            while task is not None:
                task.run()
                self._durations.note(task)
                self._refuse_late()
                # An idle thread must not keep its last result alive.
                task = None
                task = self._next(worker)
        except Interrupted:
            # Should be impossible; if it happens, this thread must not run other work.
            with self._lock:
                self._running -= 1

    def _next(self, worker: _Worker) -> Task[Any] | None:
        """Wait for the next task; return ``None`` if this thread is one too many because stuck threads have ended."""
        bound = self._bound() if self._running > self._max_threads else self._max_threads
        with self._lock:
            self._free_at = time.monotonic()
            if self._running > bound:
                self._running -= 1
                return None
            if self._tasks:
                return self._tasks.take()
            self._idle.append(worker)
        return worker.taken()

    def _none_free_s(self) -> float:
        """Return for how many seconds all threads that may run have been busy, without one that ended its work."""
        bound = self._bound()
        with self._lock:
            return 0.0 if self._idle or self._running < bound else time.monotonic() - self._free_at

    def _bound(self) -> int:
        """Return how many threads may run, stuck threads included."""
        if not self.stuck.count():  # the normal case
            return self._max_threads
        return self._max_threads + self.stuck.count_pooled() - self.stuck.excess()


# The thread pool of this process.
_last_made: Threads | None = None


def report() -> dict[str, int]:
    """Return :meth:`Threads.report` of this process's thread pool; all 0 if there is none."""
    return _last_made.report() if _last_made else {"busy": 0, "queued": 0, "stuck": 0, "interrupted": 0}
