"""Test the thread pool and its interrupts, without a port."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest

from erlport_bridge import request
from erlport_bridge.threads import Interrupted, NoThreadError, Task, Threads, uninterrupted, wait_for

# An interrupt may hit an unrelated finalizer. Python then reports and drops the exception, and the interrupt is
# repeated.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONG_S = 20


def loop() -> None:
    for _ in itertools.count():
        pass


def eventually(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


def outcome(task: Task[Any]) -> object:
    """Return the result of a task, or the class of its exception."""
    try:
        return task.result(LONG_S)
    except (Interrupted, CancelledError) as error:
        return type(error)


class Blocked:
    """A function that blocks in C until it is released, and gets no exception until then."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.has_begun = threading.Event()

    def __call__(self) -> str:
        """Wait for the release."""
        self.has_begun.set()
        os.read(self._read, 1)
        return "released"

    def release(self) -> None:
        """Let the function go on."""
        os.write(self._write, b"x")


def test_endless_loop_ends_and_its_thread_works_on() -> None:
    threads = Threads(4)
    before = threading.active_count()
    for _ in range(200):
        task = threads.submit(loop)
        eventually(task.running)
        assert not task.cancel()
        assert outcome(task) is Interrupted
        assert threads.submit(pow, 2, 3).result(LONG_S) == 8
    assert threads.report() == {"busy": 0, "queued": 0, "stuck": 0, "interrupted": 200}
    # On a busy machine a task may come before the thread of the last one is free. The fifth is the watching thread.
    assert threading.active_count() <= before + 5


def test_interruption_never_meets_other_work() -> None:
    """Work of about a millisecond is cancelled at random moments, also just when it ends; later work is unharmed."""
    threads = Threads(4)

    def count(limit: int) -> int:
        number = 0
        for number in range(1, limit + 1):  # noqa: B007 - the loop only takes time
            pass
        return number

    def ask(seed: int) -> list[object]:
        chosen = random.Random(seed)  # noqa: S311 - a test that can be repeated
        outcomes: list[object] = []
        for _ in range(450):
            limit = chosen.randrange(60_000)
            task = threads.submit(count, limit)
            if chosen.random() < 0.7:
                while not (task.running() or task.done()):
                    pass
                for _ in range(chosen.randrange(1_000)):
                    pass
                for _ in range(chosen.randrange(1, 3)):
                    task.cancel()
            result = outcome(task)
            assert result in (limit, Interrupted, CancelledError)
            outcomes.append(result)
            assert threads.submit(count, 7).result(LONG_S) == 7
        return outcomes

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as callers:
            outcomes = [result for results in callers.map(ask, range(3)) for result in results]
    finally:
        sys.setswitchinterval(interval)
    assert outcomes.count(Interrupted) > 15
    assert sum(isinstance(result, int) for result in outcomes) > 25
    report = threads.report()
    assert (report["busy"], report["queued"], report["stuck"]) == (0, 0, 0)


def test_interrupts_work_while_the_garbage_collector_calls_python() -> None:
    """A callback of the garbage collector could release the GIL in the middle of an interrupt: a deadlock, once."""
    threads = Threads(4)

    def called(phase: str, info: object) -> None:
        for _ in range(100):
            pass

    def interrupt(rounds: int) -> None:
        for _ in range(rounds):
            task = threads.submit(loop)
            eventually(task.running)
            task.cancel()
            assert outcome(task) is Interrupted

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-5)
    gc.set_threshold(1)
    gc.callbacks.append(called)
    try:
        with ThreadPoolExecutor(3) as callers:
            list(callers.map(interrupt, [100] * 3))
    finally:
        gc.callbacks.remove(called)
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
    assert gc.isenabled()


def test_uninterrupted_block_runs_to_its_end() -> None:
    threads = Threads(1)
    halves = [0, 0]

    def work() -> None:
        while True:
            with uninterrupted():
                halves[0] += 1
                for _ in range(1_000):
                    pass
                halves[1] += 1

    for _ in range(30):
        task = threads.submit(work)
        eventually(task.running)
        task.cancel()
        assert outcome(task) is Interrupted
        assert halves[0] == halves[1]


def test_locks_of_logging_are_not_left_behind() -> None:
    threads = Threads(4)
    handler = logging.StreamHandler(io.StringIO())
    record = logging.makeLogRecord({"msg": "busy"})

    def log() -> None:
        while True:
            handler.handle(record)

    for _ in range(30):
        tasks = [threads.submit(log) for _ in range(3)]
        for task in tasks:
            eventually(task.running)
            task.cancel()
        assert {outcome(task) for task in tasks} == {Interrupted}
    assert threads.submit(handler.handle, record).result(LONG_S)


def test_function_that_catches_the_interrupt_and_goes_on_is_interrupted_again() -> None:
    taken = []

    def retry() -> None:
        while True:
            try:
                loop()
            except BaseException as error:  # as careless code does
                taken.append(error)
                if len(taken) == 2:
                    raise

    task = Threads(1).submit(retry)
    eventually(task.running)
    task.cancel()
    assert outcome(task) is Interrupted
    assert len(taken) == 2


def test_wait_for_another_thread_ends_at_once_and_cancels_its_work() -> None:
    threads = Threads(1)
    awaited: Future[None] = Future()
    task = threads.submit(wait_for, awaited)
    eventually(task.running)
    task.cancel()
    assert outcome(task) is Interrupted
    assert awaited.cancelled()
    done: Future[int] = Future()
    done.set_result(7)
    assert threads.submit(wait_for, done).result(LONG_S) == wait_for(done) == 7


def test_except_exception_does_not_catch_the_interrupt() -> None:
    def careless() -> None:
        while True:
            with contextlib.suppress(Exception):
                loop()

    task = Threads(1).submit(careless)
    eventually(task.running)
    task.cancel()
    assert outcome(task) is Interrupted


def test_stuck_thread_is_logged_counted_and_replaced_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads(1)
    blocked = Blocked()
    token = request.request_id.set("r-7")
    task = threads.submit(blocked)
    request.request_id.reset(token)
    blocked.has_begun.wait(LONG_S)
    waiting = threads.submit(pow, 2, 3)
    task.cancel()
    # The pool has only one thread, and it is blocked.
    assert waiting.result(LONG_S) == 8
    assert threads.report() == {"busy": 1, "queued": 0, "stuck": 1, "interrupted": 1}
    eventually(lambda: bool(caplog.messages))
    (warning,) = caplog.messages
    assert warning.startswith(
        "a thread is stuck: tests.threads.test_threads.Blocked for request 'r-7' goes on although it was"
    )
    assert "now in __call__ (" in warning
    assert warning.endswith("; stuck threads: 1")
    blocked.release()
    assert outcome(task) is Interrupted
    eventually(lambda: threads.report()["stuck"] == 0)
    assert threads.submit(pow, 2, 3).result(LONG_S) == 8
    # One of the two threads was too many.
    eventually(lambda: sum(thread.name.startswith("call-") for thread in threading.enumerate()) >= 1)
    assert threads.report()["busy"] == 0


def test_more_stuck_threads_than_allowed_take_the_place_of_others_until_they_end() -> None:
    threads = Threads(1, max_stuck=1, lost_after_s=1.5)
    blocked = [Blocked(), Blocked()]
    tasks = [threads.submit(each) for each in blocked]
    for number, (each, task) in enumerate(zip(blocked, tasks, strict=True), 1):
        each.has_begun.wait(LONG_S)
        task.cancel()
        eventually(lambda number=number: threads.report()["stuck"] == number)  # type: ignore[misc]
    # Threads that are only slow may end at any moment, so work waits for them.
    waiting = threads.submit(pow, 2, 3)
    assert not waiting.done()
    eventually(lambda: threads.stuck.count_lost() == 2)
    with pytest.raises(NoThreadError) as caught:
        threads.submit(pow, 2, 3)
    assert caught.value.message == (
        "all threads are stuck in work that does not end: 2; "
        "start python anew, and give that work a time limit of its own"
    )
    assert (caught.value.kind, caught.value.facts) == ("overloaded", {"stage": "queue"})
    blocked[0].release()
    eventually(lambda: threads.report()["stuck"] == 1)
    assert threads.submit(pow, 2, 3).result(LONG_S) == 8
    assert waiting.result(LONG_S) == 8
    blocked[1].release()


def stuck_work(threads: Threads, count: int) -> list[Blocked]:
    """Interrupt some work that does not notice; return it when it counts as stuck."""
    blocked = [Blocked() for _ in range(count)]
    tasks = [threads.submit(each) for each in blocked]
    for each in blocked:
        assert each.has_begun.wait(LONG_S)
    for task in tasks:
        task.cancel()
    eventually(lambda: threads.report()["stuck"] == count)
    return blocked


def test_another_process_is_asked_for_once_when_threads_are_lost_and_none_is_free() -> None:
    threads = Threads(2, max_stuck=0, lost_after_s=1.2)
    asked: list[str] = []
    threads.stuck.ask_for_recycling(asked.append)
    blocked = stuck_work(threads, 1)
    eventually(lambda: threads.stuck.count_lost() == 1)
    # Long enough for a look of the watching thread.
    time.sleep(0.5)
    assert threads.submit(pow, 2, 3).result(LONG_S) == 8
    assert asked == []
    other = Blocked()
    threads.submit(other)
    eventually(lambda: bool(asked))
    assert asked == ["1 of its threads are stuck for more than 1.2 s, and none is free"]
    # Until the other process is there, this one works off its calls.
    assert threads.submit(pow, 2, 3).result(LONG_S) == 8
    for each in [*blocked, other]:
        each.release()


@pytest.mark.parametrize("count", [2, 5])
def test_slow_work_is_no_reason_for_another_process_and_a_burst_is_one_line(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """33 tools that slept for 4 s, interrupted after 2, made a pool replace Python and lose every session."""
    threads = Threads(count, max_stuck=0)
    asked: list[str] = []
    threads.stuck.ask_for_recycling(asked.append)
    blocked = stuck_work(threads, count)
    eventually(lambda: bool(caplog.messages))
    waiting = threads.submit(pow, 2, 3)
    for each in blocked:
        each.release()
    assert waiting.result(LONG_S) == 8
    eventually(lambda: threads.report()["stuck"] == 0)
    assert asked == []
    (warning,) = caplog.messages
    assert warning.startswith(
        f"{count} threads are stuck: tests.threads.test_threads.Blocked ({count}) go on although they were interrupted,"
    )


def test_work_past_the_limit_of_the_queue_is_refused() -> None:
    threads = Threads(1, max_queued=2)
    blocked = Blocked()
    first = threads.submit(blocked)
    blocked.has_begun.wait(LONG_S)
    queued = [threads.submit(pow, 2, 3) for _ in range(2)]
    with pytest.raises(NoThreadError) as caught:
        threads.submit(pow, 2, 3)
    assert caught.value.message == "all threads are busy (1), and as much waits for one as may (2)"
    # A cancelled task makes room in the queue.
    assert queued[0].cancel()
    eventually(lambda: threads.report()["queued"] == 1)
    blocked.release()
    assert first.result(LONG_S) == "released"
    assert queued[1].result(LONG_S) == 8


def test_work_that_comes_while_threads_are_being_started_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(2, max_queued=1)
    # A task may be submitted while the thread for an earlier task is being started.
    monkeypatch.setattr(threads, "_start", lambda task: None)
    for _ in range(3):
        threads.submit(int)
    with pytest.raises(NoThreadError):
        threads.submit(int)


def test_work_is_done_by_running_threads_if_the_system_allows_no_new_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(4)
    blocked = Blocked()
    first = threads.submit(blocked)
    blocked.has_begun.wait(LONG_S)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    waiting = [threads.submit(pow, 2, exponent) for exponent in range(3)]
    blocked.release()
    assert [first.result(LONG_S), *(task.result(LONG_S) for task in waiting)] == ["released", 1, 2, 4]
    eventually(lambda: threads.report()["busy"] == 0)
    assert threads.submit(pow, 2, 3).result(LONG_S) == 8


def test_as_many_threads_run_as_there_is_work_and_no_more_than_allowed() -> None:
    threads = Threads(3)
    blocked = [Blocked() for _ in range(5)]
    tasks = [threads.submit(each) for each in blocked]
    eventually(lambda: sum(each.has_begun.is_set() for each in blocked) == 3)
    assert threads.report()["queued"] == 2
    for each in blocked:
        each.release()
    assert [task.result(LONG_S) for task in tasks] == ["released"] * 5
