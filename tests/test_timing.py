"""Timing: turns, what samples can support, and intervals that hold what they claim to hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve import timing
from burnish_serve.timing import Timed, interleave, latency, measure, median_interval, percentile, speedup, throughput


class Clock:
    """A clock that only its calls move on; stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def perf_counter(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.now += seconds
        self.log.append("sleep")

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        """Return a call that takes so many seconds."""

        def run() -> None:
            self.now += seconds
            self.log.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_candidates_take_turns() -> None:
    log: list[str] = []
    samples = interleave({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, rounds=3, seconds=0, pause=0)
    assert log == ["a", "b", *"ababab"]  # the first two are the warm-up
    assert {name: found.shape for name, found in samples.items()} == {"a": (3, 1), "b": (3, 1)}


def test_what_timed_itself_is_believed(clock: Clock) -> None:
    def ask() -> Timed:
        clock.now += 5.0
        return Timed(value="label", seconds=2.0)

    found = interleave({"ours": clock.call("ours", 3.0), "theirs": ask}, rounds=2, seconds=0)
    assert {name: samples.tolist() for name, samples in found.items()} == {"ours": [[3], [3]], "theirs": [[2], [2]]}


def test_a_turn_is_as_many_calls_as_fill_it(clock: Clock) -> None:
    ticks: list[float] = []
    calls = {"a": clock.call("a", 1.0), "b": clock.call("b", 2.0), "c": clock.call("c", 9.0)}
    samples = interleave(calls, rounds=2, seconds=12, tick=lambda: ticks.append(clock.now))
    assert samples["a"].tolist() == [[1.0] * 6] * 2
    assert samples["b"].tolist() == [[2.0] * 3] * 2
    assert samples["c"].tolist() == [[9.0]] * 2
    warm_up = ["a"] * 6 + ["b"] * 3 + ["c"]
    one_round = ["sleep", *"a" * 7, "sleep", *"b" * 4, "sleep", "c"]  # one call uncounted, unless a call fills a turn
    assert clock.log == warm_up + one_round * 2
    assert len(ticks) == 6


def test_one_candidate_does_not_wait(clock: Clock) -> None:
    samples = measure(clock.call("a", 1.0), rounds=2, seconds=4)
    assert samples.tolist() == [1.0] * 4
    assert "sleep" not in clock.log


@pytest.mark.parametrize(("q", "needed"), [(50, 20), (95, 200), (99, 1000), (99.9, 10_000), (5, 200)])
def test_a_percentile_is_withheld_without_ten_samples_beyond_it(q: float, needed: int) -> None:
    assert percentile(np.ones(needed - 1), q) is None
    assert percentile(np.ones(needed), q) == 1.0


def test_a_percentile_of_samples_in_rounds() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1, 1001.0)).reshape(10, 100)
    assert percentile(samples, 95) == pytest.approx(950.05)
    assert percentile(np.empty(0), 50) is None


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33), (100, 40, 61)])
def test_the_interval_has_the_ranks_of_published_tables(count: int, low: int, high: int) -> None:
    found = median_interval(np.arange(count, 0, -1.0))
    assert (found.low, found.high) == (low, high)
    assert found.median == (count + 1) / 2


@given(st.integers(6, 400))
def test_the_interval_is_the_narrowest_that_covers_95_percent(count: int) -> None:
    rank = int(median_interval(np.arange(1.0, count + 1)).low or 0)
    missed = [2 * sum(math.comb(count, k) for k in range(r)) / 2**count for r in (rank, rank + 1)]
    assert missed[0] <= 0.05 < missed[1]


def test_the_interval_covers_the_median_of_skewed_samples() -> None:
    draws = np.random.default_rng(0).exponential(size=(2000, 15))
    found = [median_interval(draw) for draw in draws]
    covered = np.mean([(f.low or 0) <= math.log(2) <= (f.high or 0) for f in found])
    assert 0.95 <= covered <= 0.99  # 0.965 by theory: ranks are whole numbers


def test_no_interval_from_few_samples() -> None:
    found = median_interval(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert (found.median, found.low, found.high) == (3.0, None, None)
    with pytest.raises(ValueError, match="no samples"):
        median_interval(np.empty(0))


def test_the_interval_of_many_samples() -> None:
    found = median_interval(np.arange(100_000.0))
    assert found.low == pytest.approx(50_000 - 310, abs=2)
    assert found.high == pytest.approx(50_000 + 310, abs=2)


def test_throughput_is_a_median_over_rounds() -> None:
    samples = np.array([[1.0, 3.0], [1.0, 1.0], [4.0, 4.0], [1.0, 1.0], [2.0, 2.0], [2.0, 2.0]])
    found = throughput(samples, 8)
    assert (found.texts_per_second, found.low, found.high, found.rounds) == (4.0, 2.0, 8.0, 6)


def test_speedup_compares_round_with_round() -> None:
    weather = np.array([1, 5, 2, 9, 1, 3, 7])[:, None]  # a machine that is slow now and then, for all alike
    found = speedup(weather * np.full((7, 4), 0.5), weather * np.full((7, 2), 1.0))
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_latency_is_in_milliseconds() -> None:
    found = latency(np.full((20, 10), 0.002))
    assert (found.samples, found.p50_ms, found.p95_ms, found.p99_ms) == (200, 2.0, 2.0, None)
