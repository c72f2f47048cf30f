"""Test the counts of one name, and how near the percentiles are to the true ones."""

from __future__ import annotations

import math
import random

import pytest

from erlport_bridge.counting.tallies import Durations, Spent, Tally


def counted(durations_s: list[float]) -> Durations:
    durations = Durations()
    for duration_s in durations_s:
        durations.add(duration_s)
    return durations


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("count", [1, 2, 19, 20, 100, 5_000])
def test_percentiles_are_within_a_twentieth_of_the_true_ones(count: int, spread: float) -> None:
    source = random.Random(count)  # noqa: S311 - a test that can be repeated
    durations_s = [source.lognormvariate(-3, spread) for _ in range(count)]
    report = counted(durations_s).report()
    assert report is not None
    in_order = sorted(durations_s)
    for percentile in (50, 95, 99):
        true_ms = in_order[math.ceil(count * percentile / 100) - 1] * 1000
        assert report[f"p{percentile}"] == pytest.approx(true_ms, rel=0.05)
    assert report["max"] == max(durations_s) * 1000
    assert report["mean"] == pytest.approx(sum(durations_s) / count * 1000)


@pytest.mark.parametrize("duration_s", [0.0, 1e-9, 1e-6, 1.0, 4_294_967.295])
def test_shortest_and_longest_durations_have_a_place(duration_s: float) -> None:
    report = counted([duration_s] * 3).report()
    assert report is not None
    assert report["max"] == duration_s * 1000
    assert 0 <= report["p50"] == report["p99"] <= report["max"]
    # A duration shorter than a clock can measure counts as 0.
    assert report["p50"] == pytest.approx(duration_s * 1000, rel=0.05, abs=1e-4)


def test_nothing_counted_has_no_percentiles() -> None:
    assert Durations().report() is None


def test_histogram_does_not_grow_with_what_it_counts() -> None:
    source = random.Random(1)  # noqa: S311 - a test that can be repeated
    durations = counted([10 ** source.uniform(-7, 6.6) for _ in range(50_000)])
    assert len(durations._counts) < 400


def test_merged_counts_are_the_counts_of_all() -> None:
    source = random.Random(2)  # noqa: S311 - a test that can be repeated
    first, second = ([source.expovariate(10) for _ in range(100)] for _ in range(2))
    merged = counted(first)
    merged.merge(counted(second))
    together = counted(first + second)
    report, expected = merged.report(), together.report()
    assert report == pytest.approx(expected)


def test_answers_from_a_cache_cost_nothing() -> None:
    spent = Spent()
    spent.add_answer(10, 0.25, is_cached=False)
    spent.add_answer(10, 0.25, is_cached=True)
    spent.add_answer(5, None, is_cached=False)
    assert spent.report() == {"total_tokens": 15, "cost": 0.25, "unpriced": 1, "cache_hits": 1}


@pytest.mark.parametrize("tokens", [None, -1, 10**400, "7", 1.5])
def test_invalid_number_of_tokens_is_not_counted(tokens: object) -> None:
    spent = Spent()
    spent.add_answer(tokens, float("inf"), is_cached=False)
    assert spent.report() == {"total_tokens": 0, "cost": 0.0, "unpriced": 1, "cache_hits": 0}


def test_copy_does_not_change_with_the_original() -> None:
    tally = Tally()
    tally.failed("timeout")
    copied = tally.copy()
    tally.failed("timeout")
    tally.durations.add(1.0)
    assert (copied.errors, copied.durations.report()) == ({"timeout": 1}, None)
