"""Test at which places an interrupted function gets its exception."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tqdm  # type: ignore[import-untyped]

from erlport_bridge.threads import Interrupted, Threads
from erlport_bridge.threads.safe_points import safe_points
from tests.threads.test_threads import LONG_S, eventually, outcome

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def by_with(lock: Any) -> None:
    with lock:
        pass


def by_with_and_return(lock: Any) -> int:
    with lock:
        return len("held")


def by_with_and_a_loop(lock: Any) -> None:
    with lock:
        for _ in range(3):
            len("held")


def by_with_and_sleep(lock: Any) -> None:
    with lock:
        time.sleep(0.000_01)


def by_acquire_and_try(lock: Any) -> None:
    lock.acquire()
    try:
        len("held")
    finally:
        lock.release()


def by_stored_acquire_and_try(lock: Any) -> None:
    is_taken = lock.acquire(timeout=LONG_S)
    try:
        len("held")
    finally:
        if is_taken:
            lock.release()


def by_hand_without_try(lock: Any) -> None:
    """Hold a lock as tqdm's ``refresh`` does."""
    lock.acquire()
    calls_another()
    lock.release()


def calls_another() -> None:
    for _ in range(3):
        len("held")


class Bar(tqdm.tqdm):  # type: ignore[misc]
    """A progress bar with a lock of its own."""

    def __del__(self) -> None:
        # tqdm's own fails for a bar whose constructor was interrupted, within whatever test runs then.
        with contextlib.suppress(AttributeError):
            super().__del__()


def by_progress_bar(lock: Any) -> None:
    Bar.set_lock(lock)
    # tqdm cannot bear that the bar of an earlier round ends in the thread that looks through all bars (its lock is
    # reentrant): "Set changed size during iteration". That leaves no lock either.
    with contextlib.suppress(RuntimeError):
        Bar(range(3), file=io.StringIO()).refresh()


def by_context_manager(lock: Any) -> None:
    with generated(lock):
        len("held")


@contextlib.contextmanager
def generated(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Wrapped:
    """A lock whose methods are written in Python."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock."""
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exception: object) -> None:
        self.release()


def test_progress_bars_leave_no_lock_behind() -> None:
    """All optimizers share one, which must be reentrant, since bars are closed by their finalizer too."""
    assert_nothing_is_left_behind(threading.RLock(), by_progress_bar)


@pytest.mark.parametrize("lock", [threading.Lock, threading.RLock, threading.Condition, threading.Semaphore, Wrapped])
@pytest.mark.parametrize(
    "hold",
    [
        *(by_with, by_with_and_return, by_with_and_a_loop, by_with_and_sleep, by_acquire_and_try),
        *(by_stored_acquire_and_try, by_hand_without_try, by_context_manager),
    ],
)
def test_no_lock_is_left_behind(lock: Callable[[], Any], hold: Callable[[Any], object]) -> None:
    """From Python 3.14 on, an interrupt once fell between taking a lock and the ``with`` block; others did always."""
    assert_nothing_is_left_behind(lock(), hold)


def assert_nothing_is_left_behind(shared: Any, hold: Callable[[Any], object]) -> None:
    """Interrupt a function that holds a lock again and again, and check each time that the lock is free."""
    threads = Threads(2)

    def work() -> None:
        while True:
            hold(shared)

    def is_free() -> bool:
        is_taken = bool(shared.acquire(blocking=False))
        if is_taken:
            shared.release()
        return is_taken

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for round_ in range(10):
            task = threads.submit(work)
            eventually(task.running)
            for _ in range(round_ * 40):
                pass
            task.cancel()
            assert outcome(task) is Interrupted
            assert is_free()
    finally:
        sys.setswitchinterval(interval)


def test_queue_works_on_after_interrupts() -> None:
    threads = Threads(2)
    items: queue.Queue[int] = queue.Queue()

    def work() -> None:
        while True:
            items.put(1)
            items.get()

    for _ in range(50):
        task = threads.submit(work)
        eventually(task.running)
        task.cancel()
        assert outcome(task) is Interrupted
    items.put(2)
    assert items.get(timeout=LONG_S) in (1, 2)


def test_blocking_call_gets_the_interrupt_when_it_returns() -> None:
    read, write = os.pipe()
    went_on: list[bytes] = []

    def work() -> None:
        data = os.read(read, 1)
        went_on.append(data)

    task = Threads(1).submit(work)
    eventually(task.running)
    task.cancel()
    eventually(lambda: task.work.place() is not None)
    # Let the interrupt be repeated while the call blocks.
    time.sleep(0.1)
    os.write(write, b"x")
    assert outcome(task) is Interrupted
    assert went_on == []
    os.close(read)
    os.close(write)


def test_context_manager_that_never_opens_is_interrupted_after_a_while() -> None:
    class Polling:
        def __enter__(self) -> None:
            while True:
                time.sleep(0.001)

        def __exit__(self, *_exception: object) -> None:
            pass

    def work() -> None:
        with Polling():
            pass

    task = Threads(1).submit(work)
    eventually(task.running)
    task.cancel()
    assert outcome(task) is Interrupted


SLOW_MODULE = """
import time
from imported_slowly import runs

runs.append("begins")
for _ in range(200):
    time.sleep(0.005)
runs.append("ends")
"""


def test_an_import_is_not_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that ended during the first import of LiteLLM left it half made: all later ones failed."""
    package = tmp_path / "imported_slowly"
    package.mkdir()
    (package / "__init__.py").write_text("runs = []\nfrom imported_slowly import slow\nruns.append('whole')\n")
    (package / "slow.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    begun = threading.Event()

    def imports() -> None:
        begun.set()
        importlib.import_module("imported_slowly")
        while True:
            time.sleep(0.001)

    task = Threads(1).submit(imports)
    assert begun.wait(LONG_S)
    eventually(lambda: "begins" in getattr(sys.modules.get("imported_slowly"), "runs", []))
    task.cancel()
    assert outcome(task) is Interrupted
    assert sys.modules["imported_slowly"].runs == ["begins", "ends", "whole"]


@pytest.mark.usefixtures("busy_machine")
def test_interrupt_does_not_go_to_a_thread_that_is_being_started() -> None:
    """It ended the new thread, and its starter waited for ever for a word of it."""

    def work() -> None:
        while True:
            threading.Thread(target=int).start()

    for _ in range(30):
        task = Threads(1).submit(work)
        eventually(task.running)
        task.cancel()
        assert outcome(task) is Interrupted


def test_clean_up_of_an_interrupted_function_is_not_interrupted_again() -> None:
    cleaned = []

    def work() -> None:
        try:
            while True:
                pass
        finally:
            for _ in range(100_000):
                pass
            cleaned.append(True)

    threads = Threads(2)
    for _ in range(20):
        task = threads.submit(work)
        eventually(task.running)
        task.cancel()
        assert outcome(task) is Interrupted
    assert len(cleaned) == 20


@pytest.mark.skipif(sys.version_info < (3, 13), reason="sys.monitoring is not used")
def test_function_is_observed_only_until_it_has_ended() -> None:
    monitoring = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    release = threading.Event()

    def work() -> None:
        while not release.is_set():
            with contextlib.suppress(Interrupted):
                release.wait(0.001)

    task = Threads(1).submit(work)
    eventually(task.running)
    (tool,) = (each for each in (3, 4) if monitoring.get_tool(each) == "erlport_bridge")
    task.cancel()
    eventually(lambda: task.work.was_interrupted)
    task.cancel()
    release.set()
    assert outcome(task) in (None, Interrupted)
    assert monitoring.get_local_events(tool, work.__code__) == 0


def test_safe_points_are_found_in_each_shape() -> None:
    def plain(call: Callable[[], object]) -> None:
        call()
        call()

    def in_a_loop(call: Callable[[], object]) -> None:
        for _ in range(3):
            call()

    def without_end(call: Callable[[], object]) -> None:
        while True:
            call()

    def optimized_away(lock: Any) -> None:
        if False:
            lock.acquire()
        lock.release()

    assert safe_points(plain.__code__).unsafe_calls == frozenset()
    assert safe_points(by_hand_without_try.__code__).unprotected
    assert not safe_points(optimized_away.__code__).unprotected
    assert len(safe_points(without_end.__code__).repeated) == (2 if sys.version_info >= (3, 11) else 0)
    assert len(safe_points(by_acquire_and_try.__code__).unsafe_calls) == 1
    assert len(safe_points(by_stored_acquire_and_try.__code__).unsafe_calls) == 1
    assert len(safe_points(by_with.__code__).unsafe_calls) == (sys.version_info >= (3, 14))
    assert len(safe_points(in_a_loop.__code__).repeated) == (2 if sys.version_info >= (3, 11) else 0)
