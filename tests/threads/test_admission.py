"""Threads serve callers in turn, and refuse work that would get its thread too late."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from erlport_bridge import request
from erlport_bridge.threads import NoThreadError, Task, Threads

LONG_S = 30


def nap(duration_s: float = 0.2) -> float:
    time.sleep(duration_s)
    return duration_s


def submit(
    threads: Threads, caller: str | None, left_s: float | None, function: Any = nap, *arguments: Any
) -> Task[Any]:
    """Submit work of a caller that has some time left."""

    def submitted() -> Task[Any]:
        request.caller.set(caller)
        request.ends_at.set(None if left_s is None else time.monotonic() + left_s)
        return threads.submit(function, *arguments)

    return contextvars.copy_context().run(submitted)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Yield an event that lets all blocked work go on, at the end of the test at the latest."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_caller_with_one_task_does_not_wait_for_the_thousand_of_another(gate: threading.Event) -> None:
    threads = Threads(1)
    done: list[str] = []
    submit(threads, "many", None, gate.wait, LONG_S)
    tasks = [submit(threads, "many", None, done.append, "many") for _ in range(1_000)]
    tasks.append(submit(threads, "one", None, done.append, "one"))
    gate.set()
    for task in tasks:
        task.result(LONG_S)
    assert done.index("one") <= 1


def test_full_queue_has_room_for_a_caller_with_less_in_it(gate: threading.Event) -> None:
    threads = Threads(1, max_queued=3)
    submit(threads, "many", None, gate.wait, LONG_S)
    many = [submit(threads, "many", None, pow, 2, 3) for _ in range(3)]
    with pytest.raises(NoThreadError, match="as much waits for one as may"):
        submit(threads, "many", None, pow, 2, 3)
    one = submit(threads, "one", None, pow, 2, 4)
    with pytest.raises(NoThreadError, match="as much waits for one as may"):
        many[-1].result(LONG_S)
    gate.set()
    assert (one.result(LONG_S), many[0].result(LONG_S)) == (16, 8)


def test_work_that_would_begin_too_late_is_refused_at_once_and_other_work_is_not(gate: threading.Event) -> None:
    """952 of 1,300 calls waited for a thread until their deadline."""
    threads = Threads(2)
    for task in [submit(threads, "many", None) for _ in range(8)]:
        task.result(LONG_S)
    blocking = [submit(threads, "many", None, gate.wait, LONG_S) for _ in range(2)]
    # 100 naps of at least 0.2 s in two threads: 10 s or more.
    naps = [submit(threads, "many", None) for _ in range(100)]
    with pytest.raises(NoThreadError) as caught:
        submit(threads, "many", 2.0)
    assert caught.value.facts["retry_after"] >= 8
    assert "100 tasks wait for a thread, about " in caught.value.message
    # Another caller's task comes after one of them.
    other = submit(threads, "other", 2.0)
    patient = submit(threads, "many", 1_000.0)
    for task in [*naps[1:], patient]:
        task.cancel()
    gate.set()
    assert other.result(LONG_S) == 0.2
    assert blocking[0].result(LONG_S) is True


def test_nothing_is_refused_while_the_rate_is_unknown(gate: threading.Event) -> None:
    threads = Threads(1)
    for _ in range(7):
        submit(threads, None, None).result(LONG_S)
    submit(threads, None, None, gate.wait, LONG_S)
    waiting = [submit(threads, None, 0.1) for _ in range(100)]
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()


def test_work_is_refused_when_the_first_tasks_end_together(gate: threading.Event) -> None:
    """Only the first of them looked, when too little was known: the others waited as long again."""
    threads = Threads(16)
    first = threading.Event()
    begun = [submit(threads, None, None, first.wait, LONG_S) for _ in range(16)]
    waiting = [submit(threads, None, 2.0, gate.wait, LONG_S) for _ in range(300)]
    time.sleep(0.4)
    first.set()
    assert all(task.result(LONG_S) for task in begun)
    # 284 tasks of 0.4 s in 16 threads need seven seconds; none of the second round ends.
    with pytest.raises(NoThreadError):
        waiting[-1].result(LONG_S)
    assert not any(task.done() and task.exception() is None for task in waiting)


def test_waiting_work_is_refused_as_soon_as_the_rate_is_known() -> None:
    """Work that came before anything was known does not wait until its deadline either."""
    threads = Threads(4)
    # 500 rounds of at least half a second.
    tasks = [submit(threads, None, 120.0, nap, 0.5) for _ in range(1_000)]
    with pytest.raises(NoThreadError) as caught:
        tasks[-1].result(60)
    assert caught.value.facts["retry_after"] >= 1
    refused = sum(task.done() and isinstance(task.exception(), NoThreadError) for task in tasks)
    assert not any(isinstance(task.exception(), NoThreadError) for task in tasks[:100] if task.done())
    for task in tasks:
        task.cancel()
    assert refused < 900


def test_quick_work_is_not_refused_for_slow_work_of_the_past(gate: threading.Event) -> None:
    """Each function has its own rate: a mean of all would refuse thousands of quick tasks after some slow ones."""
    threads = Threads(1)
    for _ in range(8):
        submit(threads, None, None).result(LONG_S)
    for _ in range(8):
        submit(threads, None, None, pow, 2, 3).result(LONG_S)
    submit(threads, None, None, gate.wait, LONG_S)
    quick = [submit(threads, None, 20.0, pow, 2, 3) for _ in range(1_000)]
    gate.set()
    assert {task.result(LONG_S) for task in quick} == {8}
