"""The counters of a port."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from erlport_bridge.programs.metrics import Metrics


def test_nothing_counted_is_an_empty_report() -> None:
    report = Metrics().report()
    assert (report["operations"], report["modules"]) == ({}, {})
    assert report["uptime_ms"] >= 0
    assert report["memory_bytes"] > 1 << 20


def test_call_in_flight_has_no_duration_yet() -> None:
    metrics = Metrics()
    metrics.begin("operations", "ping")
    assert metrics.report()["operations"]["ping"] == {
        "calls": 1,
        "in_flight": 1,
        "errors": {},
        "mean_ms": None,
        "max_ms": None,
        "total_tokens": 0,
    }


def test_mean_and_maximum_are_of_the_calls_that_ended() -> None:
    metrics = Metrics()
    for _ in range(3):
        started_at = metrics.begin("modules", "dspy.Predict")
        metrics.end("modules", "dspy.Predict", started_at - 0.010, tokens=5)
    metrics.end("modules", "dspy.Predict", metrics.begin("modules", "dspy.Predict") - 0.110, kind="timeout")
    report = metrics.report()["modules"]["dspy.Predict"]
    assert 35 <= report["mean_ms"] < 60
    assert 110 <= report["max_ms"] < 200
    assert (report["errors"], report["total_tokens"], report["in_flight"]) == ({"timeout": 1}, 15, 0)


def test_counting_anew_forgets_what_ended_and_keeps_what_runs() -> None:
    metrics = Metrics()
    running_since = metrics.begin("operations", "ping")
    metrics.end("operations", "list_modules", metrics.begin("operations", "list_modules"))
    before = metrics.reset()
    assert before["operations"]["list_modules"]["calls"] == 1
    assert list(metrics.report()["operations"]) == ["ping"]
    metrics.end("operations", "ping", running_since, kind="timeout")
    counted = metrics.report()["operations"]["ping"]
    assert (counted["calls"], counted["in_flight"], counted["errors"]) == (1, 0, {"timeout": 1})


def test_no_count_is_lost_between_threads() -> None:
    metrics = Metrics()

    def count(number: int) -> None:
        metrics.end("operations", "ping", metrics.begin("operations", "ping"), kind="input" if number % 2 else None)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(2_000)))
    report = metrics.report()["operations"]["ping"]
    assert (report["calls"], report["in_flight"], report["errors"]) == (2_000, 0, {"input": 1_000})
