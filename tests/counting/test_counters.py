"""Test the counters of a port."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from erlport_bridge.counting import counters as metrics_module
from erlport_bridge.counting.counters import MAX_NAMES, OTHER, Counters
from erlport_bridge.counting.tallies import Spent
from erlport_bridge.redaction import remember_secret
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock whose time the test sets."""
    return Clock.of(metrics_module, monkeypatch)


def count(metrics: Counters, group: str, name: str, *, kind: str | None = None) -> None:
    metrics.end(metrics.begin(group, name), kind=kind)


def test_nothing_counted_is_an_empty_report() -> None:
    report = Counters().report()
    assert [report[group] for group in ("operations", "modules", "programs", "models")] == [{}] * 4
    assert report["uptime_ms"] == report["counted_ms"] >= 0
    assert report["peak_memory_bytes"] >= report["memory_bytes"] > 1 << 20


def test_the_peak_of_memory_is_known_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise FileNotFoundError

    peak = Counters().report()["peak_memory_bytes"]
    monkeypatch.setattr("builtins.open", refuse)
    report = Counters().report()
    assert report["memory_bytes"] is None
    assert peak / 2 < report["peak_memory_bytes"] < 2 * peak


def test_call_in_flight_has_no_duration_yet() -> None:
    metrics = Counters()
    metrics.begin("operations", "ping")
    assert metrics.report()["operations"]["ping"] == {
        "calls": 1,
        "in_flight": 1,
        "errors": {},
        "duration_ms": None,
        "queue_ms": None,
        "total_tokens": 0,
        "cost": 0.0,
        "unpriced": 0,
        "cache_hits": 0,
    }


def test_durations_are_of_the_calls_that_ended(clock: Clock) -> None:
    metrics = Counters()
    for duration_s, kind in [(0.010, None), (0.010, None), (0.010, None), (0.110, "timeout")]:
        running = metrics.begin("modules", "dspy.Predict")
        clock.now_s += duration_s
        metrics.end(running, kind=kind, queued_s=duration_s / 2, spent=Spent(tokens=5, cost=0.5))
    metrics.begin("modules", "dspy.Predict")
    report = metrics.report()["modules"]["dspy.Predict"]
    assert report["duration_ms"]["mean"] == pytest.approx(35)
    assert report["duration_ms"]["p50"] == pytest.approx(10, rel=0.05)
    assert report["duration_ms"]["p99"] == pytest.approx(110, rel=0.05)
    assert report["duration_ms"]["max"] == pytest.approx(110)
    assert report["queue_ms"]["max"] == pytest.approx(55)
    assert (report["calls"], report["in_flight"], report["errors"]) == (5, 1, {"timeout": 1})
    assert (report["total_tokens"], report["cost"]) == (20, 2.0)


def test_quick_call_is_counted_in_one_piece(clock: Clock) -> None:
    metrics = Counters()
    metrics.add("operations", "ping", clock.now_s - 0.002)
    metrics.add("operations", "ping", clock.now_s - 0.004, kind="input")
    report = metrics.report()["operations"]["ping"]
    assert (report["calls"], report["in_flight"], report["errors"]) == (2, 0, {"input": 1})
    assert report["duration_ms"]["max"] == pytest.approx(4)


def test_no_quick_call_of_many_threads_is_lost() -> None:
    metrics = Counters()

    def add(name: str) -> None:
        for number in range(2_000):
            metrics.add("operations", name, time.monotonic(), kind=None if number % 4 else "input")

    threads = [threading.Thread(target=add, args=(name,)) for name in ("ping", "ping", "metrics")]
    for thread in threads:
        thread.start()
    reports = [metrics.report() for _ in range(20)]
    for thread in threads:
        thread.join()
    counted = [report["operations"].get("ping", {"calls": 0})["calls"] for report in [*reports, metrics.report()]]
    assert counted == sorted(counted)
    after = metrics.reset()["operations"]
    assert {name: (tally["calls"], tally["errors"]["input"]) for name, tally in after.items()} == {
        "ping": (4_000, 1_000),
        "metrics": (2_000, 500),
    }
    assert metrics.report()["operations"] == {}


def test_reset_forgets_ended_calls_and_keeps_running_ones(clock: Clock) -> None:
    metrics = Counters()
    running = metrics.begin("operations", "ping")
    count(metrics, "operations", "list_modules")
    clock.now_s += 3
    before = metrics.reset()
    assert before["operations"]["list_modules"]["calls"] == 1
    assert (before["uptime_ms"], before["counted_ms"]) == (3_000, 3_000)
    clock.now_s += 1
    after = metrics.report()
    assert (after["uptime_ms"], after["counted_ms"]) == (4_000, 1_000)
    assert list(after["operations"]) == ["ping"]
    metrics.end(running, kind="timeout")
    counted = metrics.report()["operations"]["ping"]
    assert (counted["calls"], counted["in_flight"], counted["errors"]) == (1, 0, {"timeout": 1})
    # The earlier report is a copy, which does not change.
    assert before["operations"]["ping"]["errors"] == {}


def test_names_are_bounded_and_no_count_is_lost() -> None:
    metrics = Counters()
    for number in range(20 * MAX_NAMES):
        count(metrics, "models", f"hostile/{number}", kind="provider" if number % 2 else None)
    report = metrics.report()["models"]
    assert len(report) == MAX_NAMES + 1
    assert sum(tally["calls"] for tally in report.values()) == 20 * MAX_NAMES
    assert sum(tally["errors"].get("provider", 0) for tally in report.values()) == 10 * MAX_NAMES


def test_used_names_are_not_evicted_by_many_new_names() -> None:
    metrics = Counters()
    for _ in range(3):
        count(metrics, "models", "often/used")
    for number in range(5 * MAX_NAMES):
        count(metrics, "models", f"hostile/{number}")
        if number % (MAX_NAMES // 4) == 0:
            count(metrics, "models", "rarely/used")
    report = metrics.report()["models"]
    assert report["often/used"]["calls"] == 3
    assert report["rarely/used"]["calls"] == 20
    assert OTHER in report


def test_call_in_flight_is_counted_where_it_began() -> None:
    metrics = Counters()
    running = [metrics.begin("models", f"busy/{number}") for number in range(2 * MAX_NAMES)]
    report = metrics.report()["models"]
    assert len(report) == MAX_NAMES + 1
    assert report[OTHER]["in_flight"] == MAX_NAMES
    for one in running:
        metrics.end(one, kind="timeout")
    report = metrics.report()["models"]
    assert report[OTHER]["errors"] == {"timeout": MAX_NAMES}
    assert {tally["in_flight"] for tally in report.values()} == {0}


def test_long_names_are_cut() -> None:
    metrics = Counters()
    count(metrics, "models", "m" * 1_000_000)
    count(metrics, "models", "m" * 1_000_000)
    ((name, tally),) = metrics.report()["models"].items()
    assert (name, tally["calls"]) == ("m" * 200, 2)


def test_names_that_turn_out_to_be_keys_are_redacted() -> None:
    metrics = Counters()
    count(metrics, "models", "openai/metrics-key-1")
    count(metrics, "models", "openai/metrics-key-2")
    remember_secret("metrics-key-1")
    remember_secret("metrics-key-2")
    # A key across the cut of a long name, of which half would stay.
    count(metrics, "models", "m" * 195 + "metrics-key-2")
    report = metrics.report()["models"]
    assert report["openai/[redacted]"]["calls"] == 2
    assert "metrics-key" not in repr(report)
    assert "mmetri" not in repr(report)


def test_no_count_is_lost_between_threads() -> None:
    metrics = Counters()

    def call(number: int) -> None:
        count(metrics, "operations", "ping", kind="input" if number % 2 else None)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(2_000)))
    report = metrics.report()["operations"]["ping"]
    assert (report["calls"], report["in_flight"], report["errors"]) == (2_000, 0, {"input": 1_000})


def test_periods_of_counting_add_up_between_threads() -> None:
    metrics = Counters()
    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(count, metrics, "operations", "ping", kind="input") for _ in range(2_000)]
        periods = [metrics.reset() for _ in range(20)]
        for one in done:
            one.result()
    periods.append(metrics.report())
    errors = (period["operations"].get("ping", {"errors": {}})["errors"].get("input", 0) for period in periods)
    assert sum(errors) == 2_000
